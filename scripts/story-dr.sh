#!/usr/bin/env bash
# The second story, step by step: direct routing, how a single setting of a server breaks it, how `tunlb doctor` finds
# that, and what mends it. Every command is shown as it is run. Needs root, ip, python3 and curl; nothing is left.
#
#              br0 in lb ── 203.0.113.0/24
#    ┌──────────┬───────────┬───────────┐
#  client     tunlb        rs1         rs2
#   .7      .2, VIP .22    .10         .11, each with the VIP on lo
#
#   make build && scripts/story-dr.sh
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="${TUNLB_BIN:-$PWD/bin}:$PATH" # where make build puts tunlb

say() { printf '\n# %s\n' "$*"; }
run() {
	printf '$ %s\n' "$*"
	"$@"
}
get() { for _ in $(seq "$1"); do ip netns exec client curl -sS --max-time 5 http://203.0.113.22/; done | sort | uniq -c; }
# neighbour: the MAC that the client has for the VIP.
neighbour() { ip -n client neigh show 203.0.113.22 | awk '{ print $5 }'; }

nodes=(client lb rs1 rs2)
for n in "${nodes[@]}"; do
	if ip netns pids "$n" >/dev/null 2>&1; then
		echo "namespace $n exists already" >&2
		exit 1
	fi
done
state=$(mktemp -d)
pids=()
end() {
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" || true; done
	for n in "${nodes[@]}"; do ip netns del "$n" 2>/dev/null || true; done
	rm -rf "$state"
}
trap end EXIT

say "One segment: a bridge in lb with the client and two servers on it."
for n in "${nodes[@]}"; do ip netns add "$n" && ip -n "$n" link set lo up; done
run ip -n lb link add br0 type bridge
run ip -n lb link set br0 up
member() { # NODE ADDRESS
	run ip -n "$1" link add eth0 type veth peer name "$1" netns lb
	run ip -n lb link set "$1" master br0 up
	run ip -n "$1" addr add "$2" dev eth0
	run ip -n "$1" link set eth0 up
}
member client 203.0.113.7/24
member rs1 203.0.113.10/24
member rs2 203.0.113.11/24

say "Each server has the VIP, so that it takes the client's packets as they are and answers in the VIP's name." \
	"It is told to keep quiet about it: only tunlb may answer ARP for the VIP."
for rs in rs1 rs2; do
	run ip netns exec "$rs" sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
	run ip -n "$rs" addr add 203.0.113.22/32 dev lo
	mkdir "$state/$rs" && echo "$rs" >"$state/$rs/index.html"
	ip netns exec "$rs" python3 -m http.server --directory "$state/$rs" 80 >/dev/null 2>&1 &
	pids+=($!)
	until ip netns exec "$rs" curl -s -o "$state/null" http://127.0.0.1/; do kill -0 "${pids[-1]}"; done
done

cat >"$state/dr.yaml" <<'CONFIG'
ports:
  - {name: tunlb0, type: tap, bridge: br0, addresses: [203.0.113.2/24]}
services:
  - name: web
    listen: 203.0.113.22:80/tcp
    mode: dr
    scheduler: rr
    servers: [{name: rs1, address: 203.0.113.10}, {name: rs2, address: 203.0.113.11}]
CONFIG
run cat "$state/dr.yaml"
printf '$ ip netns exec lb tunlb run -f dr.yaml &\n'
ip netns exec lb tunlb run -f "$state/dr.yaml" 2>"$state/log" &
pids+=($!)
until ip netns exec lb tunlb status >/dev/null 2>&1; do kill -0 "${pids[-1]}"; done

say "The client asks for the VIP and hears tunlb's MAC. Both servers answer, and their answers don't pass tunlb."
get 4
run ip -n client neigh show 203.0.113.22
ours=$(neighbour)

say "rs1 has been set up anew, and the two settings were forgotten: now it answers ARP for the VIP, too."
run ip netns exec rs1 sysctl -qw net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0
run ip netns exec rs1 arping -q -c 1 -A -I eth0 203.0.113.22 2>"$state/null" || true # announces it, as a booting server does

say "Who asks now may hear either. A client that has heard rs1 has a load balancer no more."
until [ "$(neighbour)" != "$ours" ]; do
	ip -n client neigh flush all
	get 1 >"$state/null"
done
run ip -n client neigh show 203.0.113.22
get 4

say "The doctor has heard both, and knows what to do."
printf '$ ip netns exec lb tunlb doctor\n'
ip netns exec lb tunlb doctor >"$state/doctor" || true
cat "$state/doctor"
grep -q arp_ignore=1 "$state/doctor"

say "So be it."
run ip netns exec rs1 sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
run ip -n client neigh flush all
get 4
run ip -n client neigh show 203.0.113.22
[ "$(neighbour)" = "$ours" ]
