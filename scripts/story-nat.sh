#!/usr/bin/env bash
# The first story, step by step: the load balancer as the servers' gateway, translating both ways (LVS-NAT).
# Every command is shown as it is run. The network is story.sh's. Needs root, ip, python3 and curl; nothing is left.
#
#   make build && scripts/story-nat.sh
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="${TUNLB_BIN:-$PWD/bin}:$PATH" # where make build puts tunlb

say() { printf '\n# %s\n' "$*"; }
run() {
	printf '$ %s\n' "$*"
	"$@"
}
# get N: as many requests, and who answered.
get() { for _ in $(seq "$1"); do ip netns exec client curl -sS --max-time 5 http://203.0.113.22/; done | sort | uniq -c; }

config=$(mktemp)
tunlb=
end() {
	[ -n "$tunlb" ] && kill "$tunlb" 2>/dev/null && wait "$tunlb" || true
	scripts/story.sh down
	rm -f "$config"
}

say "A client, the box lb, and three servers whose default gateway is lb. Nobody has the VIP 203.0.113.22 yet."
run scripts/story.sh up
trap end EXIT

say "rs1 is to get half of all connections, the others a quarter each."
cat >"$config" <<'CONFIG'
services:
  - name: web
    listen: 203.0.113.22:80/tcp
    scheduler: wrr
    servers:
      - {name: rs1, address: 192.168.0.10:8080, weight: 2}
      - {name: rs2, address: 192.168.0.11:8080}
      - {name: rs3, address: 192.168.0.12:8080}
CONFIG
run cat "$config"
printf '$ ip netns exec lb tunlb run -f %s &\n' "$config"
ip netns exec lb tunlb run -f "$config" &
tunlb=$!
until ip netns exec lb tunlb status >/dev/null 2>&1; do kill -0 "$tunlb"; done

say "tunlb has made a TUN device, and these rules lead to it what is the service's. All else lb routes as before."
run ip -n lb rule
run ip -n lb route show table 7474

say "Eight requests from the client."
printf '$ for i in $(seq 8); do ip netns exec client curl -s http://203.0.113.22/; done | sort | uniq -c\n'
get 8
[ "$(get 8 | awk '$2 == "rs1" { print $1 }')" = 4 ]

say "Which server is next, and why? Asking changes nothing."
run ip netns exec lb tunlb explain --client 198.51.100.7:40000 --vip 203.0.113.22:80

say "rs1 is to be rebooted: it gets nothing new, and its connections go on to their end."
run ip netns exec lb tunlb drain rs1
get 8
! get 8 | grep -q rs1
run ip netns exec lb tunlb undrain rs1

say "Ctrl-C takes tunlb away, and with it the device and every rule."
kill -INT "$tunlb" && wait "$tunlb"
tunlb=
run ip -n lb rule
! ip -n lb rule | grep -q 7474
