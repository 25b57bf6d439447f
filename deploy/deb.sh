#!/usr/bin/env bash
# Builds the Debian package of both programs, and one of their line tables, by dpkg-deb alone:
# deploy/deb.sh PROGRAMS DIRECTORY, where PROGRAMS holds those of `make build`. Prints their paths.
#
# The same programs give the same bytes: files are as old as the newest entry of the changelog, or
# as SOURCE_DATE_EPOCH says. Whoever rebuilds puts his own name there, as DEBFULLNAME and DEBEMAIL.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
programs=$(realpath "$1") directory=$(realpath "$2")
names=(overlay-gw overlay-seller) ids=()

say_changelog() { dpkg-parsechangelog -l "$here/debian/changelog" -S "$1"; }

version=$(say_changelog Version)
source=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
if [[ $version != "$source"-* ]]; then
  echo "deploy/debian/changelog is of $version and Cargo.toml of $source: one of them is old" >&2
  exit 1
fi
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(say_changelog Timestamp)}
maintainer=$(say_changelog Maintainer)
if [[ -n ${DEBEMAIL:-} ]]; then maintainer="${DEBFULLNAME:-${maintainer% <*}} <$DEBEMAIL>"; fi
architecture=$(dpkg --print-architecture)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/debian/overlay debug=$work/debian/overlay-dbgsym
umask 022

put() { # MODE FILE PATH: a file of the package
  install -D -m "$1" "$2" "$root/$3"
}

put_gz() { # FILE PATH: the same, compressed and without a date
  mkdir -p "$(dirname "$root/$2")"
  gzip -9n <"$1" >"$root/$2"
}

put_programs() { # line tables go to a package of their own, where debuggers and backtraces look
  local name id file
  for name in "${names[@]}"; do
    put 755 "$programs/$name" "usr/bin/$name"
    id=$(readelf -n "$programs/$name" | sed -n 's/.*Build ID: //p')
    ids+=("$id")
    file=$debug/usr/lib/debug/.build-id/${id:0:2}/${id:2}.debug
    mkdir -p "$(dirname "$file")"
    objcopy --only-keep-debug "$programs/$name" "$file"
    chmod 644 "$file"
    strip --strip-unneeded --remove-section=.comment --remove-section=.note "$root/usr/bin/$name"
  done
}

put_manual() { # man pages, and completions where each shell looks
  local name page program
  "$here/man.sh" "$programs" "$work/man" >/dev/null
  for page in "$work"/man/*.1; do
    name=$(basename "$page")
    put_gz "$page" "usr/share/man/man1/$name.gz"
  done
  for name in "${names[@]}"; do
    program=$programs/$name
    "$program" completions bash >"$work/bash" && "$program" completions zsh >"$work/zsh" &&
      "$program" completions fish >"$work/fish"
    put 644 "$work/bash" "usr/share/bash-completion/completions/$name"
    put 644 "$work/zsh" "usr/share/zsh/vendor-completions/_$name"
    put 644 "$work/fish" "usr/share/fish/vendor_completions.d/$name.fish"
  done
}

third_party() { # what the programs are linked with: names, licences, and each text once
  local crates file
  crates=$(cd "$here/.." && cargo tree --offline --locked -e normal --prefix none -f '{p}|{l}' \
    -p buyer-gateway -p seller-node)
  crates=$(sed '/(\//d; s/ (\*)$//; s/ (proc-macro)//; s/ v/-/' <<<"$crates" | sort -u)
  printf '%s\n' "$crates" | tr '|' '\t'
  cut -d '|' -f 1 <<<"$crates" | while read -r crate; do
    cd "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$crate"
    find "$PWD" -maxdepth 1 -type f -regextype egrep \
      -regex '.*/(LICEN[CS]E|COPYING|NOTICE|COPYRIGHT)[^/]*' | LC_ALL=C sort
  done >"$work/texts"
  xargs -d '\n' sha256sum <"$work/texts" | awk '!seen[$1]++ { print substr($0, 67) }' |
    while read -r file; do
      printf '\n==== %s\n\n' "$(basename "$(dirname "$file")")/${file##*/}"
      cat "$file"
    done
}

put_documents() {
  local doc=usr/share/doc/overlay
  put 644 "$here/debian/copyright" $doc/copyright
  put 644 "$here/debian/README.Debian" $doc/README.Debian
  put_gz "$here/debian/changelog" $doc/changelog.Debian.gz
  put_gz "$here/../CHANGELOG.md" $doc/changelog.gz
  put_gz "$here/../README.md" $doc/README.md.gz
  put_gz "$here/../SECURITY.md" $doc/SECURITY.md.gz
  put_gz "$here/../docs/events.md" $doc/events.md.gz
  third_party >"$work/third-party"
  put_gz "$work/third-party" $doc/third-party.gz
  local example
  for example in "$here"/examples/*/*; do
    put 644 "$example" "$doc/examples/${example#"$here"/examples/}"
  done
  put 644 "$here/debian/lintian-overrides" usr/share/lintian/overrides/overlay
}

put_system() {
  local unit
  for unit in "$here"/systemd/*; do
    put 644 "$unit" "usr/lib/systemd/system/$(basename "$unit")"
  done
  put 644 "$here/debian/sysusers.conf" usr/lib/sysusers.d/overlay.conf
  put 644 "$here/debian/tmpfiles.conf" usr/lib/tmpfiles.d/overlay.conf
  put 644 "$here/debian/default" etc/default/overlay
}

libraries() { # what the programs are linked with, with the oldest version that has all they use
  mkdir -p "$root/DEBIAN"
  printf 'Source: overlay\n\nPackage: overlay\nArchitecture: any\n' >"$work/debian/control"
  (cd "$work" && dpkg-shlibdeps -O "${names[@]/#/$root/usr/bin/}") | sed -n 's/^shlibs:Depends=//p'
}

control() { # PACKAGE DIRECTORY: its fields from stdin, with those that all have
  mkdir -p "$2/DEBIAN"
  {
    printf 'Package: %s\nSource: overlay\nVersion: %s\n' "$1" "$version"
    printf 'Architecture: %s\nMaintainer: %s\n' "$architecture" "$maintainer"
    printf 'Installed-Size: %s\n' "$(du -k -s --apparent-size "$2" | cut -f1)"
    cat
  } >"$2/DEBIAN/control"
  (cd "$2" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | LC_ALL=C sort -z |
    xargs -0 md5sum) >"$2/DEBIAN/md5sums"
}

build() { # PACKAGE DIRECTORY
  local file=$directory/${1}_${version}_$architecture.deb
  find "$2" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group -Zxz -z3 --build "$2" "$file" >/dev/null
  echo "$file"
}

mkdir -p "$root" "$debug"
put_programs
put_manual
put_documents
put_system

control overlay "$root" <<FIELDS
Section: net
Priority: optional
Depends: $(libraries), iproute2, nftables (>= 1.0.6), systemd (>= 252)
Recommends: qemu-system-x86
Description: one Ethernet segment for computers that strangers rent out
 A buyer rents idle machines from people he does not know. All of them and his
 own computer are on one private Ethernet segment, through whatever NAT they
 are behind: any program that works on a LAN works there. Which addresses a
 member may use is signed by the buyer and checked at both ends of every
 tunnel.
 .
 overlay-gw is the buyer's side, overlay-seller that of a host whose guest
 reaches its segment and nothing else.
FIELDS
for script in postinst prerm postrm; do
  install -m 755 "$here/debian/$script" "$root/DEBIAN/$script"
done
(cd "$root" && find etc -type f -printf '/%p\n') >"$root/DEBIAN/conffiles"
build overlay "$root"

mkdir -p "$debug/usr/share/doc"
ln -s overlay "$debug/usr/share/doc/overlay-dbgsym"
control overlay-dbgsym "$debug" <<FIELDS
Section: debug
Priority: optional
Auto-Built-Package: debug-symbols
Depends: overlay (= $version)
Build-Ids: ${ids[*]}
Description: line tables of overlay
FIELDS
build overlay-dbgsym "$debug"
