# The release gate on an emulated Debian: the package is installed, used as its README.Debian says,
# and purged. A line GATE NAME … is a step that was taken, GATE FAILED … the end of it.
. ./gate.env
set -Eeuo pipefail

say() { echo "GATE $*"; }

fail() {
  trap - ERR
  journalctl -b --no-pager -o short-monotonic -u 'overlay-*' | tail -n 30
  say "FAILED $* after $SECONDS s"
  poweroff -f
}
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR

wait_for() { # SECONDS COMMAND…
  local until=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < until)) || fail "waited in vain: $*"
    sleep 0.5
  done
}

show() { systemctl show -P "$2" "overlay-$1"; } # UNIT PROPERTY

snapshot() { # what is there of links, tables, namespaces, processes, units and files
  find /sys/class/net -mindepth 1 -printf 'link %f\n'
  nft list tables
  lsns -n -t net -o COMMAND | sed '/systemd/d; s/^/netns of /'
  find /run/netns -type f -printf 'netns %f\n' 2>/dev/null || true
  sed -s 's/^/process /' /proc/[0-9]*/comm 2>/dev/null | grep -E 'overlay|ovl|qemu' || true
  systemctl list-units --all --plain --no-legend 'overlay*' | sed 's/^/unit /; s/  .*//'
  find / -xdev \( -path /proc -o -path /sys \) -prune -o -name '*overlay*' -printf 'file %p\n'
  find /run /tmp /var/tmp \( -name '*overlay*' -o -name '*ovl*' \) -printf 'file %p\n'
}

take() { snapshot | LC_ALL=C sort -u >"$1"; } # FILE

outer_network() {
  mkdir -p /run/systemd/network
  printf '[Match]\nName=en* eth*\n[Network]\nAddress=%s\nGateway=%s\n' "$OUTER" "$ROUTER" \
    >/run/systemd/network/05-outer.network
  networkctl reload
  wait_for 60 ping -c 1 -W 1 "$ROUTER"
  # The host's own firewall, whose start flushes all tables.
  systemctl enable --now nftables 2>/dev/null
  say "HOST $(uname -r) $(nft --version | cut -d ' ' -f 2) systemd $(systemctl --version |
    sed -n '1s/systemd \([0-9]*\).*/\1/p') up in $SECONDS s"
}

install_package() {
  dpkg -i overlay.deb >dpkg.log 2>&1 || { cat dpkg.log; fail "dpkg -i"; }
  [[ $(dpkg-query -W -f '${Status}' overlay) == "install ok installed" ]]
  [[ -z $(dpkg -V overlay) ]]
  [[ $(getent passwd overlay) == overlay:*:/var/lib/overlay:/usr/sbin/nologin ]]
  [[ $(stat -c '%a %U' /var/lib/overlay /run/overlay /etc/overlay/tickets | xargs) == \
    "700 root 755 root 700 root" ]]
  [[ -z $(systemctl list-units --plain --no-legend 'overlay*') ]]
  say "INSTALLED $(dpkg-query -W -f '${Version}' overlay)"
}

check_units() {
  local units=(overlay-seller@g1 overlay-seller-audit overlay-gw@barn) unit said
  said=$(systemd-analyze verify --man=no "${units[@]/%/.service}" 2>&1) || true
  [[ -z $said ]] || fail "systemd-analyze verify: $said"
  for unit in "${units[@]}"; do
    said=$(systemd-analyze security --no-pager "$unit.service")
    said=${said##*service: }
    say "EXPOSURE $unit ${said%% *}"
  done
}

probe_units() { # what a program can do in them, and that it can outside
  local unit drop
  mkdir /opt/gate && cp probe.sh gate.env /opt/gate
  say "FREE $(bash /opt/gate/probe.sh | sed 's/PROBE //' | xargs)"
  touch /etc/overlay/seller/probe.conf
  for unit in seller gw; do
    drop=/run/systemd/system/overlay-$unit@probe.service.d
    mkdir -p "$drop"
    {
      printf '[Unit]\nRequires=\n[Service]\nType=oneshot\nRestart=no\n'
      printf 'ExecStart=\nExecStart=/bin/bash /opt/gate/probe.sh\n'
    } >"$drop/gate.conf"
    systemctl daemon-reload
    systemctl start "overlay-$unit@probe"
    say "LETS $unit $(journalctl -b --no-pager -o cat -u "overlay-$unit@probe" |
      sed -n 's/^PROBE //p' | xargs)"
    rm -r "$drop"
  done
  rm -r /opt/gate /etc/overlay/seller/probe.conf
}

audit() { # or what stands in for it where the program has no such command
  local drop=/run/systemd/system/overlay-seller-audit.service.d
  mkdir -p $drop
  printf '[Service]\nExecStart=\nExecStart=/bin/sh -c "exit 5"\n' >$drop/gate.conf
  systemctl daemon-reload
  if systemctl start overlay-seller@g1 2>/dev/null; then fail "a guest on a host that leaks"; fi
  [[ $(show seller@g1 ActiveState) == inactive && $(show seller-audit ExecMainStatus) == 5 ]]
  say "REFUSED without a passed audit"
  rm $drop/gate.conf
  if overlay-seller audit --help >/dev/null 2>&1; then
    systemctl daemon-reload
    systemctl start overlay-seller-audit || fail "the audit"
    journalctl -b --no-pager -o cat -u overlay-seller-audit
    say "AUDIT passed"
  else
    printf '[Service]\nExecStart=\nExecStart=/bin/true\n' >$drop/gate.conf
    systemctl daemon-reload
    say "AUDIT missing"
  fi
}

is_joined() { # TIMES: so often has the guest joined
  local said
  said=$(journalctl -b --no-pager -o cat -u overlay-seller@g1 | grep -c ' order farm ')
  ((said == $1))
}

in_guest() { ip netns exec g1 "$@"; }

was_asked() { # an echo request reached the guest
  in_guest awk '/^Icmp: [0-9]/ && $10 > 0 { asked = 1 } END { exit !asked }' /proc/net/snmp
}

run_guest() {
  ip netns add g1
  systemctl enable --now overlay-seller@g1 2>/dev/null
  wait_for 60 is_joined 1
  wait_for 30 in_guest ping -c 1 -W 2 "$BUYER"
  say "JOINED $(journalctl -b --no-pager -o cat -u overlay-seller@g1 | grep ' order farm ')"
  wait_for 60 was_asked
  say "ASKED by the buyer"
}

check_processes() { # all of the unit's have what the unit says, or less
  local pid bounding fields allowed=0 number
  for number in 0 1 5 6 7 12 13 19 21 24; do allowed=$((allowed | 1 << number)); done
  for pid in $(cat "/sys/fs/cgroup$(show seller@g1 ControlGroup)/cgroup.procs"); do
    bounding=$((16#$(sed -n 's/^CapBnd:\t//p' "/proc/$pid/status")))
    fields=$(sed -n 's/^\(NoNewPrivs\|Seccomp\):\t/\1 /p' "/proc/$pid/status" | xargs)
    [[ $fields == "NoNewPrivs 1 Seccomp 2" ]] || fail "$pid has $fields"
    ((!(bounding & ~allowed))) || fail "$pid may have $bounding"
  done
  say "CONFINED $(show seller@g1 TasksCurrent) tasks"
}

kill_guest() {
  kill -9 "$(show seller@g1 MainPID)"
  wait_for 60 is_joined 2
  wait_for 30 in_guest ping -c 1 -W 2 "$BUYER"
  [[ $(show seller@g1 NRestarts) == 1 ]]
  say "RESTARTED after SIGKILL, on the same ticket"
}

upgrade_package() { # guests and orders run on
  local pids
  pids=$(show seller@g1 MainPID) && [[ $pids != 0 ]]
  dpkg -i overlay.deb >dpkg.log 2>&1 || { cat dpkg.log; fail "dpkg -i again"; }
  [[ $(show seller@g1 MainPID) == "$pids" ]]
  grep -q 'until restarted: .*overlay-seller@g1.service' dpkg.log
  say "UPGRADED under a running guest"
}

refuse_usage() {
  echo 'ARGS="join"' >/etc/overlay/seller/wrong.conf
  systemctl start overlay-seller@wrong || true
  wait_for 30 test "$(show seller@wrong SubState)" = failed
  [[ $(show seller@wrong ExecMainStatus) == 2 && $(show seller@wrong NRestarts) == 0 ]]
  say "REFUSED a wrong line, once"
}

run_gateway() {
  cp /usr/share/doc/overlay/examples/gw/farm.conf /etc/overlay/gw/barn.conf
  systemctl enable --now overlay-gw@barn 2>/dev/null
  [[ $(show gw@barn SubState) == running ]]
  [[ $(overlay-gw invite barn) == ovl1* ]]
  overlay-gw status barn >/dev/null
  say "READY $(journalctl -b --no-pager -o cat -u overlay-gw@barn | grep '^barn  ')"
}

purge_package() {
  take during
  local kind
  for kind in 'link ovl-barn' 'table inet ovl_barn' 'netns g1' 'process overlay' \
    'unit overlay-seller@g1' 'file /etc/overlay' 'file /var/lib/overlay'; do
    grep -q "^$kind" during || fail "no $kind is seen while it is there"
  done
  dpkg --purge overlay >dpkg.log 2>&1 || { cat dpkg.log; fail "dpkg --purge"; }
  [[ $(ls /run/netns) == g1 && $(in_guest ls /sys/class/net) == lo ]] || fail "the guest has more"
  ip netns del g1
  rm -r /run/systemd/system/overlay-seller-audit.service.d
  systemctl daemon-reload
  take after
  [[ -z $(comm -13 before after | tee left) ]] || { cat left; fail "something was left"; }
  say "PURGED"
}

outer_network
take before
install_package
check_units
install -m 600 g1.ovl /etc/overlay/tickets/g1.ovl
cp /usr/share/doc/overlay/examples/seller/container.conf /etc/overlay/seller/g1.conf
audit
probe_units
run_guest
check_processes
kill_guest
upgrade_package
refuse_usage
run_gateway
purge_package
say "END after $SECONDS s"
poweroff -f
