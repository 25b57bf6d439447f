#!/usr/bin/env bash
# Names all that this machine lacks for building, testing and playing the overlay, with the command
# that cures it; as root it runs that command. With --check it only names.
set -euo pipefail

rust_min=1.95
packages=() # Debian packages to install
others=()   # what no package cures, as sentences

need() { # PROGRAM PACKAGE
  PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || packages+=("$2")
}

check() {
  packages=() others=()
  need ip iproute2
  need nft nftables
  need ping iputils-ping
  need sysctl procps
  need setsid util-linux
  need setpriv util-linux
  need ethtool ethtool
  need iperf3 iperf3
  need make make
  need cc build-essential

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
  local other
  for other in "${others[@]}"; do echo "missing: $other" >&2; done
}

check
if ((${#packages[@]} == 0 && ${#others[@]} == 0)); then exit 0; fi
name_missing
if [[ ${1:-} != --check && $EUID -eq 0 ]] && ((${#packages[@]})) && command -v apt-get >/dev/null
then
  export DEBIAN_FRONTEND=noninteractive
  install=(apt-get install -y --no-install-recommends "${packages[@]}")
  "${install[@]}" >/dev/null 2>&1 || { apt-get update -q && "${install[@]}"; }
  check
  name_missing
fi
((${#packages[@]} == 0 && ${#others[@]} == 0))
