package kernel

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// lab is one network namespace of a test, with a Kernel of the test's own to look at it.
type lab struct {
	*Kernel
	t    testing.TB
	path string
}

// patience is for what must happen; nothing waits that long unless the test fails.
const patience = 20 * time.Second

// newLab makes a namespace with its loopback up.
func newLab(t testing.TB) *lab {
	t.Helper()
	if refusal != "" {
		t.Skip(refusal)
	}
	var ns netns.NsHandle
	done := make(chan error)
	go func() { // the thread is not unlocked and ends in the new namespace
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = netns.Get()
		}
		done <- err
	}()
	if err := <-done; errors.Is(err, unix.EPERM) {
		t.Skipf("no network namespace: %v", err)
	} else if err != nil {
		t.Fatalf("unshare: %v", err)
	}
	path := fmt.Sprintf("/proc/self/fd/%d", int(ns))
	k, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.release(); ns.Close() })
	l := &lab{Kernel: k, t: t, path: path}
	l.setSysctl("ipv6/conf/default/accept_dad", "0")
	l.up("lo")
	return l
}

// tun makes a TUN in the namespace; a packet is what a read returns.
func (l *lab) tun(name string) *os.File { l.t.Helper(); return l.device(name, unix.IFF_TUN) }

// device makes a TUN or TAP in the namespace.
func (l *lab) device(name string, kind uint16) *os.File {
	l.t.Helper()
	var file *os.File
	err := l.inside(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err == nil {
			req.SetUint16(kind | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		file = os.NewFile(uintptr(fd), name)
		return nil
	})
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOENT) {
		l.t.Skipf("no TUN: /dev/net/tun: %v", err)
	}
	if err != nil {
		l.t.Fatalf("open tun %s: %v", name, err)
	}
	l.t.Cleanup(func() { file.Close() })
	return file
}

// veth connects two namespaces by a pair of devices.
func veth(a *lab, aName string, b *lab, bName string) {
	a.t.Helper()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: aName}, PeerName: bName, PeerNamespace: netlink.NsFd(b.ns)}
	a.must(a.links.LinkAdd(pair))
	a.up(aName)
	b.up(bName)
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) link(name string) netlink.Link {
	l.t.Helper()
	link, err := l.links.LinkByName(name)
	if err != nil {
		l.t.Fatalf("link %s: %v", name, err)
	}
	return link
}

func (l *lab) up(name string) { l.t.Helper(); l.must(l.links.LinkSetUp(l.link(name))) }

// addr puts addresses on a device, without duplicate address detection.
func (l *lab) addr(dev string, addrs ...string) {
	l.t.Helper()
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		l.must(err)
		a.Flags = unix.IFA_F_NODAD
		if a.IP.To4() != nil {
			a.Flags = 0
		}
		l.must(l.links.AddrAdd(l.link(dev), a))
		addr, _ := netip.AddrFromSlice(a.IP)
		l.until("local route of "+s, func() bool { // IPv6 makes it later, in a worker
			routes, err := l.routes(familyOf(addr.Unmap()), unix.RT_TABLE_LOCAL, 0)
			l.must(err)
			return slices.ContainsFunc(routes, func(r routeEntry) bool { return r.dst == single(addr.Unmap()) && r.dev == dev })
		})
	}
}

// settled says that no address is tentative, and that each has its local route: IPv6 finishes them in a worker.
func (l *lab) settled() bool {
	list, err := l.links.AddrList(nil, unix.AF_INET6)
	l.must(err)
	routes, err := l.routes(unix.AF_INET6, unix.RT_TABLE_LOCAL, 0)
	l.must(err)
	return !slices.ContainsFunc(list, func(a netlink.Addr) bool {
		link, err := l.links.LinkByIndex(a.LinkIndex)
		l.must(err)
		addr, _ := netip.AddrFromSlice(a.IP)
		return a.Flags&unix.IFA_F_TENTATIVE != 0 || link.Attrs().Flags&net.FlagUp != 0 && !slices.ContainsFunc(routes, func(r routeEntry) bool { return r.dst == single(addr) })
	})
}

// until waits for the kernel's messages until ok.
func (l *lab) until(what string, ok func() bool) {
	l.t.Helper()
	w := watcher{k: l.Kernel}
	l.must(w.subscribe())
	defer w.socket.Close()
	w.socket.SetReceiveTimeout(&unix.Timeval{Sec: int64(patience / time.Second)})
	for !ok() {
		if _, _, err := w.socket.Receive(); err != nil {
			l.t.Fatalf("wait for %s: %v", what, err)
		}
	}
}

func (l *lab) delAddr(dev, addr string) {
	l.t.Helper()
	a, err := netlink.ParseAddr(addr)
	l.must(err)
	l.must(l.links.AddrDel(l.link(dev), a))
}

// via adds a route through a gateway.
func (l *lab) via(dst, gateway string) {
	l.t.Helper()
	p := netip.MustParsePrefix(dst)
	n := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	l.must(l.links.RouteAdd(&netlink.Route{Dst: n, Gw: netip.MustParseAddr(gateway).AsSlice()}))
}

func (l *lab) sysctl(path string) string {
	l.t.Helper()
	v, err := l.read(path)
	l.must(err)
	return v
}

func (l *lab) setSysctl(path, value string) { l.t.Helper(); l.must(l.write(setting{path, value})) }

// snapshot is all that a Kernel may change, as text: rules, routes of all tables, addresses, proxy
// neighbours, devices and sysctls, raw as the kernel tells them. Devices that are left out are not looked at.
func (l *lab) snapshot(without ...string) []string {
	l.t.Helper()
	l.until("the addresses to settle", l.settled)
	var lines []string
	raw := func(what string, typ, reply uint16, skip int, volatile []uint16, header nl.NetlinkRequestData) {
		l.t.Helper()
		dump, err := l.dump(typ, reply, header)
		l.must(err)
		for _, m := range dump {
			attrs, err := nl.ParseRouteAttr(m[skip:])
			l.must(err)
			line := what + " " + hex.EncodeToString(m[:skip])
			for _, a := range attrs {
				if !slices.Contains(volatile, a.Attr.Type) {
					line += fmt.Sprintf(" %d=%x", a.Attr.Type, a.Value)
				}
			}
			lines = append(lines, line)
		}
	}
	for _, f := range l.families() {
		raw("rule", unix.RTM_GETRULE, unix.RTM_NEWRULE, unix.SizeofRtMsg, nil, &nl.RtMsg{RtMsg: unix.RtMsg{Family: f}})
		raw("route", unix.RTM_GETROUTE, unix.RTM_NEWROUTE, unix.SizeofRtMsg, []uint16{unix.RTA_CACHEINFO}, &nl.RtMsg{RtMsg: unix.RtMsg{Family: f}})
	}
	raw("addr", unix.RTM_GETADDR, unix.RTM_NEWADDR, unix.SizeofIfAddrmsg, []uint16{unix.IFA_CACHEINFO}, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	raw("proxy", unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, unix.SizeofNdMsg, nil, &netlink.Ndmsg{Family: unix.AF_INET6, Flags: unix.NTF_PROXY})
	links, err := l.links.LinkList()
	l.must(err)
	for _, link := range links {
		if at := link.Attrs(); !slices.Contains(without, at.Name) {
			lines = append(lines, fmt.Sprintf("link %d %s %s", at.Index, at.Name, at.Flags))
		}
	}
	return append(lines, l.sysctls(without)...)
}

func (l *lab) sysctls(without []string) []string {
	l.t.Helper()
	var lines []string
	l.must(l.inside(func() error {
		var files []string
		for _, pattern := range []string{"ipv4/conf/*/*", "ipv6/conf/*/*", "ipv4/ip_forward", "ipv4/*_early_demux"} {
			f, err := filepath.Glob("/proc/sys/net/" + pattern)
			if err != nil {
				return err
			}
			files = append(files, f...)
		}
		for _, f := range files {
			if slices.Contains(without, filepath.Base(filepath.Dir(f))) {
				continue
			}
			if b, err := os.ReadFile(f); err == nil { // stable_secret cannot be read before it is set
				lines = append(lines, f+" = "+strings.TrimSpace(string(b)))
			}
		}
		return nil
	}))
	return lines
}

// diff is what differs between two snapshots.
func diff(before, after []string) string {
	var b strings.Builder
	for _, s := range before {
		if !slices.Contains(after, s) {
			fmt.Fprintf(&b, "- %s\n", s)
		}
	}
	for _, s := range after {
		if !slices.Contains(before, s) {
			fmt.Fprintf(&b, "+ %s\n", s)
		}
	}
	return b.String()
}

func same(t testing.TB, what string, before, after []string) {
	t.Helper()
	if d := diff(before, after); d != "" || len(before) != len(after) {
		t.Errorf("%s: the kernel is not as before (- before, + after, %d and %d lines):\n%s", what, len(before), len(after), d)
	}
}

// query is a packet whose way is asked for.
type query struct {
	from, to     string
	iif          string
	proto        uint8
	sport, dport uint16
}

// way is the answer to `ip route get`: the device, or "local".
func (l *lab) way(q query) string {
	l.t.Helper()
	to := netip.MustParseAddr(q.to)
	h := &nl.RtMsg{RtMsg: unix.RtMsg{Family: familyOf(to), Dst_len: uint8(to.BitLen())}}
	data := []nl.NetlinkRequestData{h, nl.NewRtAttr(unix.RTA_DST, to.AsSlice())}
	if q.from != "" {
		from := netip.MustParseAddr(q.from)
		h.Src_len = uint8(from.BitLen())
		data = append(data, nl.NewRtAttr(unix.RTA_SRC, from.AsSlice()))
	}
	if q.iif != "" {
		data = append(data, attr32(unix.RTA_IIF, uint32(l.link(q.iif).Attrs().Index)))
	}
	if q.proto != 0 {
		data = append(data, attr8(unix.RTA_IP_PROTO, q.proto))
	}
	port := func(typ int, p uint16) {
		if p != 0 {
			data = append(data, nl.NewRtAttr(typ, []byte{byte(p >> 8), byte(p)}))
		}
	}
	port(unix.RTA_SPORT, q.sport)
	port(unix.RTA_DPORT, q.dport)
	req := l.request(unix.RTM_GETROUTE, 0)
	for _, d := range data {
		req.AddData(d)
	}
	answer, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if err != nil {
		return err.Error()
	}
	r, err := decodeRoute(answer[0])
	l.must(err)
	if r.kind == unix.RTN_LOCAL {
		return "local"
	}
	names, err := l.deviceNames()
	l.must(err)
	return names[r.index]
}

// foreignDefault adds an administrator's default route to a table.
func (l *lab) foreignDefault(dev string, table int) {
	l.t.Helper()
	l.must(l.links.RouteAdd(&netlink.Route{
		Dst: &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}, LinkIndex: l.link(dev).Attrs().Index, Table: table, Priority: 1024,
	}))
}
