#!/bin/sh
# First program of the small guest. What it has done it says on the console, in lines that begin
# with GUEST. From the kernel's command line: ovl.ip=A/LEN ovl.ip6=A/LEN ovl.gw=A ovl.mtu=N give
# fixed settings, else DHCP and DHCPv6 are asked; ovl.run=WORD,WORD,… is a command to run when up.
export PATH=/bin
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox --install -s /bin
mkdir -p /dev/pts /run /tmp /var/run
mount -t devpts pts /dev/pts
read -r up _ </proc/uptime
echo "GUEST UP after $up s, Linux $(uname -r)"
for module in $(cat /modules); do
  insmod "/lib/modules/$module" || echo "GUEST LACKS $module"
done
for word in $(cat /proc/cmdline); do
  case $word in
  ovl.ip=*) ip4=${word#*=} ;;
  ovl.ip6=*) ip6=${word#*=} ;;
  ovl.gw=*) gw=${word#*=} ;;
  ovl.mtu=*) mtu=${word#*=} ;;
  ovl.run=*) run=$(echo "${word#*=}" | tr , ' ') ;;
  esac
done
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
  [ -n "$mtu" ] && ip link set eth0 mtu "$mtu"
  ip link set eth0 up
  echo "GUEST LINK $(cat /sys/class/net/eth0/address) mtu $(cat /sys/class/net/eth0/mtu)"
  if [ -n "$ip4" ]; then
    ip addr add "$ip4" dev eth0
    [ -n "$gw" ] && ip route add default via "$gw"
    echo "GUEST IP4 $ip4 mtu $(cat /sys/class/net/eth0/mtu) fixed"
  else
    udhcpc -f -i eth0 -s /etc/udhcpc -t 20 -T 1 -A 1 -O mtu -O staticroutes >/run/udhcpc.log 2>&1 &
  fi
  (
    # Nobody can ask from a link-local address that may still turn out to be another's.
    until ip -6 addr show dev eth0 | grep 'scope link' | grep -qv tentative; do sleep 0.1; done
    if [ -n "$ip6" ]; then
      new_ip6_address=${ip6%/*} new_ip6_prefixlen=${ip6#*/} reason=BOUND6 interface=eth0 /etc/dhclient6
    elif [ -x /bin/dhclient ]; then
      exec dhclient -6 -d -cf /dev/null -lf /run/leases6 -pf /run/dhclient6.pid -sf /etc/dhclient6 \
        eth0 >/run/dhclient6.log 2>&1
    fi
  ) &
else
  echo "GUEST LACKS eth0"
fi
[ -x /bin/dropbear ] && dropbear -s -r /etc/dropbear_host_key 2>/dev/null
# A server of iperf3 ends now and then; the next one listens at once.
[ -x /bin/iperf3 ] && (while :; do iperf3 -s -1 >/dev/null 2>&1; done) &
read -r up _ </proc/uptime
echo "GUEST READY after $up s"
[ -n "$run" ] && { sh -c "$run"; echo "GUEST RAN $?"; }
while :; do setsid cttyhack sh; sleep 1; done
