# Samples videos on Windows, as inference.sh does elsewhere:
#
#   powershell -ExecutionPolicy Bypass -File inference.ps1                        small models, prompts of configs\prompts*.txt
#   powershell -ExecutionPolicy Bypass -File inference.ps1 CONFIG... [key=value...]   any other model
#
# Any option of sample_video.py may follow. Videos of the small models go to folders in outputs\, or in the folder that
# --output-dir or the variable OUTPUT_DIR names. The first run sets up .venv; if the variable SAT_PYTHON names an interpreter, it is used unchanged.
$ErrorActionPreference = "Stop"
$root = $PSScriptRoot
$given = @($args)

function Stop-With($message) {
    [Console]::Error.WriteLine("error: $message")
    exit 2
}

function Install-Packages($python) {
    & $python -m pip install --no-input --disable-pip-version-check -r (Join-Path $root "requirements.txt")
    if ($LASTEXITCODE -eq 0) {
        & $python -m pip install --no-input --disable-pip-version-check --no-deps -r (Join-Path $root "requirements-nodeps.txt")
    }
    if ($LASTEXITCODE -ne 0) { Stop-With "the packages could not be installed (see above); start again to continue" }
}

function Get-Python {
    if ($env:SAT_PYTHON) { return $env:SAT_PYTHON }
    $venv = Join-Path $root ".venv"
    $python = Join-Path $venv "Scripts\python.exe"
    $stamp = Join-Path $venv "requirements.sha256"
    $wanted = (Get-FileHash (Join-Path $root "requirements.txt")).Hash
    if (-not (Test-Path $python)) {
        $found = Get-Command python -ErrorAction SilentlyContinue
        if ($found) { & python -c "import sys; sys.exit(sys.version_info < (3, 11))" | Out-Host }
        if (-not $found -or $LASTEXITCODE -ne 0) { Stop-With "Python 3.11 or newer is needed; install it, or set SAT_PYTHON" }
        & python -m venv $venv | Out-Host
        if ($LASTEXITCODE -ne 0) { Stop-With "python cannot make a virtual environment in $venv" }
    }
    if (-not (Test-Path $stamp) -or (Get-Content $stamp) -ne $wanted) {
        Write-Host "setting up ${venv}: the packages of requirements.txt (once; several minutes, a few GB)"
        Install-Packages $python | Out-Host
        Set-Content $stamp $wanted
    }
    return $python
}

function Invoke-Sampling($words) {
    & $python (Join-Path $root "sample_video.py") @words
    if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
}

$python = Get-Python
$shared = Join-Path $root "configs\inference.yaml"
$configs = @()
$at = if ($given.Count -gt 0 -and $given[0] -eq "--base") { 1 } else { 0 }  # as sample_video.py is called
while ($at -lt $given.Count -and $given[$at] -notlike "-*" -and $given[$at] -notlike "*=*") {
    if ((Split-Path $given[$at] -Leaf) -eq "inference.yaml") { $shared = $null }
    $configs += $given[$at]
    $at++
}
$options = @($given | Select-Object -Skip $at)

if ($configs.Count -gt 0) {
    if ($shared) { $configs += $shared }
    $output = if ($env:OUTPUT_DIR) { @("--output-dir", $env:OUTPUT_DIR) } else { @() }
    Invoke-Sampling (@("--base") + $configs + $output + $options)
    exit 0
}

$videos = if ($env:OUTPUT_DIR) { $env:OUTPUT_DIR } else { Join-Path $root "outputs" }
$words = @()
for ($i = 0; $i -lt $options.Count; $i++) {  # each model has a folder of its own in the folder that is named
    if ($options[$i] -match '^--output[-_]dir$') { $i++; $videos = if ($i -lt $options.Count) { $options[$i] } else { "" } }
    elseif ($options[$i] -match '^(--output[-_]dir|args\.output_dir)=(.*)$') { $videos = $Matches[2] }
    else { $words += $options[$i] }
    if (-not $videos) { Stop-With "--output-dir: no folder is named" }
}
foreach ($model in "tiny_t2v", "tiny_i2v") {
    Invoke-Sampling (@("--base", (Join-Path $root "configs\$model.yaml"), $shared, "--output-dir", (Join-Path $videos $model)) + $words)
}
Write-Host "The videos are in $videos\tiny_t2v and $videos\tiny_i2v: 000000.mp4 in each folder, frames.png shows its frames."
