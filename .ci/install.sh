#!/usr/bin/env bash
# Installs a binary with what it needs below a folder, and prints each path:
#   install.sh BINARY PREFIX
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$1 prefix=$2

if [[ ! -x $binary ]]; then
    printf 'install: error: %s does not exist\n  hint: make dist\n' "$binary" >&2
    exit 1
fi

say() { printf 'installed %s\n' "$*"; }

# ONNX Runtime is beside the binary: vidindex looks for it there, and other programs do not find it.
library=$prefix/lib/vidindex
install -d "$library" "$prefix/bin"
install -m 755 "$binary" "$library/vidindex"
ln -sfn ../lib/vidindex/vidindex "$prefix/bin/vidindex"
say "$prefix/bin/vidindex, a link to $library/vidindex"

if [[ -e .onnxruntime/libonnxruntime.so ]]; then
    rm -f "$library"/lib*.so*
    cp -RP .onnxruntime/lib*.so* .onnxruntime/LICENSE .onnxruntime/ThirdPartyNotices.txt "$library"
    say "$library/$(readlink .onnxruntime/libonnxruntime.so)"
else
    echo "not installed: ONNX Runtime, which .onnxruntime/ does not have (make setup)"
fi

completions() {
    install -d "$prefix/share/$2"
    "$binary" completions "$1" >"$prefix/share/$2/$3"
    say "$prefix/share/$2/$3"
}
completions bash bash-completion/completions vidindex
completions zsh zsh/site-functions _vidindex
completions fish fish/vendor_completions.d vidindex.fish

install -d "$prefix/share/man/man1"
install -m 644 man/*.1 "$prefix/share/man/man1"
say "$prefix/share/man/man1/vidindex*.1"
