"""Decodes what other programs print. On Windows that is in a code page, regardless of Python's UTF-8 mode.

Python 3.15 switches its UTF-8 mode on by default, and with it `locale.getpreferredencoding` always names UTF-8.
"""

from __future__ import annotations

import locale


def decode_console(data: bytes, platform: str) -> str:
    """The output of a console program. platform is `sys.platform`.

    Windows' own programs (netsh, getmac, schtasks, tasklist) write the console's code page, Python's codec `oem`.
    """
    return data.decode("oem" if platform == "win32" else "utf-8", "replace")


def decode_text(data: bytes, platform: str) -> str:
    """The output of a program that writes the system's own (ANSI) code page on Windows, as VBoxManage and Python do.

    It is tried as UTF-8 first, which text in another code page hardly ever is by chance.
    """
    if platform != "win32":
        return data.decode("utf-8", "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode(locale.getencoding(), "replace")
