# Tries what a unit of ours is to refuse, between three things that it lets through, and prints the
# names of what worked. Without the unit all of it works for root.
. "$(dirname "$0")/gate.env"

try() { # NAME COMMAND…
  local name=$1
  shift
  if "$@" >/dev/null 2>&1; then echo "PROBE $name"; fi
}

send() { echo probe >"/dev/udp/$1/9"; }
set_uid() { : >/var/lib/overlay/probe && chmod u+s /var/lib/overlay/probe; }

try clock date -s "@$(date +%s)"
try cgroup mkdir /sys/fs/cgroup/probe
try disk head -c 1 /dev/vda
try files touch /usr/probe
try home touch /root/probe
try log dmesg
try metadata send 169.254.169.254
try modules ls "/usr/lib/modules/$(uname -r)"
try mount mount -t tmpfs probe /mnt
try namespace unshare --mount true
try netns unshare --net true
try personality setarch --addr-no-randomize true
try realtime chrt --fifo 1 true
try router send "$ROUTER"
try setuid set_uid
try state touch /var/lib/overlay/probe
try user unshare --user true

umount /mnt 2>/dev/null
rmdir /sys/fs/cgroup/probe 2>/dev/null
rm -f /usr/probe /root/probe /var/lib/overlay/probe
exit 0
