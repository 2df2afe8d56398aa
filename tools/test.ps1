# Sets vmdns up in this checkout and runs its tests, but for the slow ones. Arguments go to pytest. Never run yet: it was
# written by PowerShell's documentation.
Set-Location (Split-Path $PSScriptRoot)
py tools\environment.py .venv test
if ($LASTEXITCODE) { exit $LASTEXITCODE }
.venv\Scripts\python.exe -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile @args
exit $LASTEXITCODE
