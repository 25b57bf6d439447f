#!/bin/sh
# Applies what the DHCPv6 server says; called by dhclient. The on-link prefix is the router's to
# advertise, so the address itself is a /128 unless told otherwise.
export PATH=/bin
case $reason in
BOUND6 | RENEW6 | REBIND6)
  address=$new_ip6_address/${new_ip6_prefixlen:-128}
  [ "$reason" = BOUND6 ] && ip addr add "$address" dev "$interface"
  while ip -6 addr show dev "$interface" | grep "inet6 $address" | grep -q tentative; do
    sleep 0.1
  done
  verdict=
  ip -6 addr show dev "$interface" | grep "inet6 $address" | grep -q dadfailed && verdict=" TAKEN"
  echo "GUEST IP6 $address dns ${new_dhcp6_name_servers:--}$verdict" >/dev/console
  ;;
EXPIRE6 | RELEASE6 | STOP6)
  ip addr del "$old_ip6_address/${old_ip6_prefixlen:-128}" dev "$interface"
  ;;
esac
