# Developer commands: `./x.ps1 help` lists them. Windows twin of ./x; installs nothing, names what is missing.
$ErrorActionPreference = "Stop"
Set-Location $PSScriptRoot
foreach ($tool in "cargo", "git", "python") {
    if (-not (Get-Command $tool -ErrorAction SilentlyContinue)) {
        Write-Error "$tool was not found. Needed: Rust (https://rustup.rs, with the MSVC build tools), git, Python 3 with pip."
    }
}
cargo run --quiet --package mlxcel-xtask -- @args
exit $LASTEXITCODE
