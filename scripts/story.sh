#!/usr/bin/env bash
# The story's network in named namespaces, to try tunlb by hand. Needs root, ip and python3.
#
#   client  198.51.100.7 ---- 198.51.100.1  lb  192.168.0.100 ---+--- rs1 192.168.0.10
#           2001:db8:1::7     2001:db8:1::1     2001:db8:c0::100 +--- rs2 192.168.0.11
#                                                                +--- rs3 192.168.0.12
#
# The servers answer HTTP on port 8080 with their name; their default gateway is lb. The client
# reaches everything by way of lb, so a VIP such as 203.0.113.22 needs no more than a tunlb on lb.
#
#   scripts/story.sh up       make it
#   scripts/story.sh down     remove it
set -euo pipefail

nodes=(client lb rs1 rs2 rs3)
state=/run/tunlb-story

down() {
	for pid in "$state"/*.pid; do
		[ -e "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true
	done
	for n in "${nodes[@]}"; do ip netns del "$n" 2>/dev/null || true; done
	rm -rf "$state"
}

# address NODE INTERFACE ADDRESS...: the link is set up as well.
address() {
	local node=$1 interface=$2
	shift 2
	for a in "$@"; do ip -n "$node" addr add "$a" dev "$interface" $([[ $a == *:* ]] && echo nodad); done
	ip -n "$node" link set "$interface" up
}

up() {
	for n in "${nodes[@]}"; do
		if ip netns pids "$n" >/dev/null 2>&1; then
			echo "namespace $n exists already: scripts/story.sh down" >&2
			exit 1
		fi
	done
	trap 'down' ERR
	mkdir -p "$state"
	for n in "${nodes[@]}"; do ip netns add "$n" && ip -n "$n" link set lo up; done

	ip -n client link add eth0 type veth peer name eth0 netns lb
	address client eth0 198.51.100.7/24 2001:db8:1::7/64
	address lb eth0 198.51.100.1/24 2001:db8:1::1/64
	ip -n client route add default via 198.51.100.1
	ip -n client route add default via 2001:db8:1::1

	ip -n lb link add eth1 type bridge
	address lb eth1 192.168.0.100/24 2001:db8:c0::100/64
	for i in 1 2 3; do
		ip -n "rs$i" link add eth0 type veth peer name "rs$i" netns lb
		ip -n lb link set "rs$i" master eth1 up
		address "rs$i" eth0 "192.168.0.$((9 + i))/24" "2001:db8:c0::1$((i - 1))/64"
		ip -n "rs$i" route add default via 192.168.0.100
		ip -n "rs$i" route add default via 2001:db8:c0::100
		mkdir "$state/rs$i" && echo "rs$i" >"$state/rs$i/index.html"
		ip netns exec "rs$i" python3 -m http.server --directory "$state/rs$i" --bind :: 8080 >/dev/null 2>&1 &
		echo $! >"$state/rs$i.pid"
		until ip netns exec "rs$i" bash -c '</dev/tcp/127.0.0.1/8080' 2>/dev/null; do ip netns pids "rs$i" | grep -q .; done
	done
	echo "ready: ip netns exec lb bin/tunlb run -f FILE, then ip netns exec client curl http://203.0.113.22/"
}

case ${1:-} in
up) up ;;
down) down ;;
*)
	echo "usage: scripts/story.sh up|down" >&2
	exit 2
	;;
esac
