"""`python -m vmdns`."""

from vmdns.cli import main

raise SystemExit(main())
