# shellcheck shell=bash
# Sourced by the repository's scripts: sets $python to an interpreter with the packages of requirements.txt and of the
# file that $more_requirements names.
#
# The interpreter is that of the repository's .venv, which is created on first use and updated when such a file changes.
# If SAT_PYTHON is set (SAT_PYTHON=python for the active environment), that interpreter is used unchanged and nothing is
# installed.
#
# The scripts keep to what bash 3.2 knows, which macOS has, and to programs that Linux and macOS share.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

find_python() {  # prints the first interpreter that is new enough
    local candidate
    for candidate in python3 python3.11 python3.12 python3.13 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "error: Python 3.11 or newer is needed, found $(python3 --version 2>&1 || true); install it, or set SAT_PYTHON" >&2
    return 2
}

forget_half_installed() {  # pip writes INSTALLER last; without it a package is incomplete, but pip would keep it
    local record
    for record in "$1"/lib/python3*/site-packages/*.dist-info; do
        if [[ -d $record && ! -e $record/INSTALLER ]]; then rm -rf -- "$record"; fi
    done
}

install() {  # install VENV ARGUMENT…
    local python=$1/bin/python
    shift
    "$python" -m pip install --no-input --disable-pip-version-check "$@" >&2
}

set_up() {  # set_up VENV FILE
    local venv=$1 started=$SECONDS base packages=(-r "$root/requirements.txt")  # its versions hold for FILE too
    if [[ $2 == requirements.txt ]]; then
        echo "setting up $venv: the packages of requirements.txt (once; several minutes, a few GB)" >&2
    else
        echo "setting up $venv: the additional packages of $2 (once)" >&2
        packages+=(-r "$root/$2")
    fi
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        base=$(find_python) || return
        rm -rf -- "$venv"
        if ! "$base" -m venv "$venv"; then
            echo "error: $base cannot make a virtual environment in $venv; install its venv module" >&2
            return 2
        fi
    fi
    forget_half_installed "$venv"
    if ! install "$venv" "${packages[@]}" ||
            { [[ $2 == requirements.txt ]] && ! install "$venv" --no-deps -r "$root/requirements-nodeps.txt"; }; then
        echo "error: the packages could not be installed (see above); start again to continue" >&2
        return 2
    fi
    echo "set up in $((SECONDS - started)) s" >&2
}

checksum() {  # of the file on standard input; macOS has the second program
    if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi
}

ensure_installed() {  # ensure_installed VENV FILE
    local venv=$1 stamp=$1/${2%.txt}.sha256 wanted
    wanted=$(checksum < "$root/$2")
    if [[ -x $venv/bin/python && $(cat "$stamp" 2>/dev/null) == "$wanted" ]]; then return; fi
    exec 9>"$venv.lock"
    if command -v flock >/dev/null; then flock 9; fi  # of two scripts started together, the second waits for the first
    if [[ ! -x $venv/bin/python || $(cat "$stamp" 2>/dev/null) != "$wanted" ]]; then
        set_up "$venv" "$2" || return
        echo "$wanted" > "$stamp"
    fi
    exec 9>&-
}

ensure_python() {
    if [[ -n ${SAT_PYTHON:-} ]]; then
        if ! python=$(command -v -- "$SAT_PYTHON"); then
            echo "error: SAT_PYTHON is $SAT_PYTHON, which is not an interpreter; correct it or unset it" >&2
            return 2
        fi
        return
    fi
    local file
    for file in requirements.txt ${more_requirements:-}; do
        ensure_installed "$root/.venv" "$file" || return
    done
    python=$root/.venv/bin/python
}

ensure_python || exit
