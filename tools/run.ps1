# Sets vmdns up in this checkout and starts it. `run.ps1 demo` starts `vmdns demo`, which needs no VirtualBox; other
# arguments go to `vmdns run`. Never run yet: it was written by PowerShell's documentation.
Set-Location (Split-Path $PSScriptRoot)
py tools\environment.py .venv
if ($LASTEXITCODE) { exit $LASTEXITCODE }
if ($args[0] -ne 'demo') { $args = @('run') + $args }
.venv\Scripts\vmdns.exe @args
exit $LASTEXITCODE
