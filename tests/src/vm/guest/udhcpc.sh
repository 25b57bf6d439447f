#!/bin/sh
# Applies what the DHCP server says; called by busybox's udhcpc.
export PATH=/bin
case $1 in
deconfig)
  ip -4 addr flush dev "$interface"
  ;;
bound | renew)
  ip -4 addr show dev "$interface" | grep -q "inet $ip/$mask " || {
    ip -4 addr flush dev "$interface"
    ip addr add "$ip/$mask" broadcast "${broadcast:-+}" dev "$interface"
  }
  [ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
  # A client that understands classless routes uses no other: RFC 3442.
  if [ -n "$staticroutes" ]; then
    set -- $staticroutes
    while [ $# -ge 2 ]; do ip route replace "$1" via "$2"; shift 2; done
  else
    for one in $router; do ip route replace default via "$one"; done
  fi
  for one in $dns; do echo "nameserver $one"; done >/etc/resolv.conf
  [ -n "$domain" ] && echo "search $domain" >>/etc/resolv.conf
  [ -n "$hostname" ] && hostname "$hostname"
  echo "GUEST IP4 $ip/$mask mtu $(cat "/sys/class/net/$interface/mtu") host $(hostname)" \
    "lease $lease router ${router:--} dns ${dns:--} domain ${domain:--}" >/dev/console
  ;;
esac
