//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
)

// traces lists what tunlb may change in a namespace, a line each: links, addresses, rules, routes, tables of the packet filter, and
// sysctls. The kernel's own link-local addresses and local IPv6 routes are left out: it adds them when it likes.
func traces(ns *netns.NS) (lines []string, err error) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	links, err := ns.Handle().LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		a := l.Attrs()
		add("link %s mtu %d flags %v promisc %d master %d", a.Name, a.MTU, a.Flags&^unix.IFF_RUNNING, a.Promisc, a.MasterIndex)
		addrs, err := ns.Handle().AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if !a.IP.IsLinkLocalUnicast() {
				add("address %s %s", l.Attrs().Name, a.IPNet)
			}
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := ns.Handle().RuleList(family)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			add("rule %d %v table %d protocol %d", family, r, r.Table, r.Protocol)
		}
		routes, err := ns.Handle().RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if family == netlink.FAMILY_V4 || r.Table != unix.RT_TABLE_LOCAL && !(r.Dst != nil && (r.Dst.IP.IsLinkLocalUnicast() || r.Dst.IP.IsMulticast())) {
				add("route %d %v", family, r)
			}
		}
	}
	err = ns.Do(func() error {
		list := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE, unix.NLM_F_DUMP)
		list.AddData(&nl.Nfgenmsg{})
		tables, err := list.Execute(unix.NETLINK_NETFILTER, 0)
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		for _, table := range tables {
			add("table %q", nameIn(table))
		}
		for _, path := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/rp_filter", "ipv6/conf/all/proxy_ndp"} {
			b, err := os.ReadFile("/proc/sys/net/" + path)
			if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6 has no such file
				return err
			}
			add("%s %s", path, bytes.TrimSpace(b))
		}
		return nil
	})
	slices.Sort(lines)
	return lines, err
}

// nameIn is the readable part of a table's message: its handle is another one each time.
func nameIn(message []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(message))
}

// difference is what is in one list and not in the other, for people; empty if they are the same.
func difference(before, after []string) string {
	var b strings.Builder
	for _, line := range before {
		if !slices.Contains(after, line) {
			fmt.Fprintf(&b, "\n    - %s", line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			fmt.Fprintf(&b, "\n    + %s", line)
		}
	}
	return b.String()
}
