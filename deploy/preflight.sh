#!/usr/bin/env bash
# Names all that this machine lacks for building, testing and playing the overlay, with the command
# that cures it; as root it runs that command. With --check it only names.
set -euo pipefail

rust_min=1.95
packages=() # Debian packages to install
unpacked=() # packages whose files guests are made of; they are not installed, only unpacked
others=()   # what no package cures, as sentences
# As in tests/src/vm.rs. Unpacked there, a kernel leaves /boot alone and busybox its namesake.
cache=${OVERLAY_LAB_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/overlay-lab}/root

need() { # PROGRAM PACKAGE
  PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || packages+=("$2")
}

need_file() { # PACKAGE FILE...: one of the files, in the cache or installed
  local file package=$1
  shift
  for file in "$@"; do [[ -e $cache/$file || -e /$file ]] && return; done
  unpacked+=("$package")
}

has_kernel() { # one with its modules, uncompressed
  local image root
  for image in "$cache"/boot/vmlinuz-* /boot/vmlinuz-*; do
    root=${image%/boot/*}
    root=$root/lib/modules/${image##*/vmlinuz-}
    [[ -n $(find "$root" -name virtio_net.ko 2>/dev/null) ]] && return
  done
  return 1
}

has_busybox() { # one without libraries
  local file
  for file in "$cache/bin/busybox" /bin/busybox; do
    [[ -e $file ]] && ! ldd "$file" >/dev/null 2>&1 && return
  done
  return 1
}

check_guests() {
  need qemu-system-x86_64 qemu-system-x86
  need dropbear dropbear-bin
  need ssh openssh-client
  need mmdebstrap mmdebstrap
  need mke2fs e2fsprogs
  has_kernel || unpacked+=(linux-image-cloud-amd64)
  has_busybox || unpacked+=(busybox-static)
  need_file isc-dhcp-client sbin/dhclient usr/sbin/dhclient
  need_file ipxe boot/ipxe.lkrn
  need_file ovmf usr/share/ovmf/OVMF.fd
}

unpack() { # PACKAGE...: each, or what it stands for, into the cache
  local package real dir
  dir=$(mktemp -d)
  for package in "$@"; do
    real=$(apt-cache depends "$package" | awk '/Depends: linux-image-/ { print $2; exit }')
    (cd "$dir" && apt-get download "${real:-$package}" >/dev/null 2>&1) || break
  done
  mkdir -p "$cache"
  local file done=0
  for file in "$dir"/*.deb; do
    [[ -e $file ]] && dpkg -x "$file" "$cache" && done=$((done + 1))
  done
  rm -rf "$dir"
  ((done == $#))
}

check() {
  packages=() unpacked=() others=()
  need ip iproute2
  need nft nftables
  need ping iputils-ping
  need sysctl procps
  need setsid util-linux
  need setpriv util-linux
  need ethtool ethtool
  need iperf3 iperf3
  need tcpdump tcpdump
  need strace strace
  need groff groff-base
  need make make
  need cc build-essential
  need dpkg-shlibdeps dpkg-dev
  need lintian lintian
  check_guests

  local rust
  if ! rust=$(cargo --version 2>/dev/null | awk '{print $2}') || [[ -z $rust ]]; then
    others+=("Rust $rust_min or newer: see https://rustup.rs")
  elif [[ $(printf '%s\n' "$rust_min" "$rust" | sort -V | head -1) != "$rust_min" ]]; then
    others+=("Rust $rust_min or newer, this is $rust: rustup update stable")
  fi
  [[ -c /dev/net/tun ]] || modprobe tun 2>/dev/null || true
  [[ -c /dev/net/tun ]] || others+=("the device /dev/net/tun: modprobe tun")
  [[ $EUID -eq 0 ]] || others+=("root, to make network namespaces: sudo -E make …")
  if ((${#packages[@]})); then
    mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
  fi
}

name_missing() {
  ((${#packages[@]})) && echo "missing packages: apt-get install -y ${packages[*]}" >&2
  ((${#unpacked[@]})) &&
    echo "missing in $cache, where deploy/preflight.sh unpacks it: ${unpacked[*]}" >&2
  local other
  for other in "${others[@]}"; do echo "missing: $other" >&2; done
}

all_there() { ((${#packages[@]} == 0 && ${#unpacked[@]} == 0 && ${#others[@]} == 0)); }

check
if all_there; then exit 0; fi
name_missing
if [[ ${1:-} != --check && $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  if ((${#packages[@]})); then
    install=(apt-get install -y --no-install-recommends "${packages[@]}")
    "${install[@]}" >/dev/null 2>&1 || { apt-get update -q && "${install[@]}"; }
  fi
  if ((${#unpacked[@]})); then
    unpack "${unpacked[@]}" || { apt-get update -q && unpack "${unpacked[@]}"; }
  fi
  check
  name_missing
fi
all_there
