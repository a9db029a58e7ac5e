#!/usr/bin/env bash
# Makes an archive of what install.sh installs, with its SHA-256 beside it:
#   package.sh BINARY FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$1 folder=$2

version=$("$binary" --version)
name=vidindex-${version#vidindex }-$(uname -m)-linux
rm -rf "${folder:?}/$name"
.ci/install.sh "$binary" "$folder/$name"
cp LICENSE README.md CHANGELOG.md "$folder/$name"
tar --directory "$folder" --sort=name --owner=0 --group=0 --numeric-owner --create --gzip --file "$folder/$name.tar.gz" "$name"
rm -rf "${folder:?}/$name"
(cd "$folder" && sha256sum "$name.tar.gz" | tee "$name.tar.gz.sha256")
