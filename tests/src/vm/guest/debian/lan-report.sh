#!/bin/sh
# Says on the console what systemd-networkd made of the network.
read -r up _ </proc/uptime
echo "GUEST ONLINE after $up s"
card=$(basename "$(dirname "$(ls -d /sys/class/net/e*/address)")")
# The network counts as online with its first address; the second needs the router and a second
# of duplicate address detection more.
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  ip -6 -o addr show dev "$card" scope global | grep -qv tentative && break
  sleep 0.5
done
four=$(ip -4 -o addr show dev "$card" | awk '{ print $4; exit }')
six=$(ip -6 -o addr show dev "$card" scope global | awk '{ print $4; exit }')
echo "GUEST IP4 ${four:-none} mtu $(cat "/sys/class/net/$card/mtu") host $(hostname)"
echo "GUEST IP6 ${six:-none}"
cat /run/systemd/netif/leases/* /run/systemd/netif/links/* | sed -n 's/^[A-Z]/GUEST HAS &/p'
ping -c 1 -W 5 "$(sed -n 's/.*ovl.ping=\([^ ]*\).*/\1/p' /proc/cmdline)" >/dev/null &&
  echo "GUEST REACHES"
echo "GUEST READY"
