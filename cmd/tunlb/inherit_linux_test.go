package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/tunlb/fdstore"
)

// line is a site where one tunlb follows the other. The test plays the service manager.
type line struct {
	*site
	keeper *fdstore.Keeper
}

func openLine(t *testing.T, topology labnet.Topology, config string) *line {
	l := &line{site: openLab(t, topology, config)}
	var err error
	l.keeper, err = fdstore.NewKeeper()
	l.must(err)
	served := make(chan error, 1)
	go func() { served <- l.keeper.Serve(func(string, string) {}) }()
	t.Cleanup(func() {
		if err := errors.Join(l.keeper.Close(), <-served); err != nil {
			t.Error(err)
		}
	})
	return l
}

// start starts the next of the line.
func (l *line) start() {
	l.t.Helper()
	l.cmd, l.log, l.ended = l.command("run", "-f", l.config), &syncBuffer{}, make(chan error, 1)
	l.cmd.Stderr = l.log
	release, err := l.keeper.Equip(l.cmd.Cmd)
	l.must(err)
	err = l.cmd.Start()
	release()
	l.must(err)
	l.keeper.Trust(l.cmd.Process.Pid)
	go func() { l.ended <- l.cmd.Wait() }()
	l.until("tunlb answers", func() error {
		select {
		case err := <-l.ended:
			l.t.Fatalf("tunlb ended: %v\n%s", err, l.log)
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := l.client().Status(ctx)
		return err
	})
}

// die is SIGKILL; what the process had said is settled.
func (l *line) die() {
	l.t.Helper()
	l.kill()
	l.settle()
}

func (l *line) settle() {
	l.t.Helper()
	l.must(l.keeper.Settle())
}

// upgrade has the process become its successor, in place.
func (l *line) upgrade() {
	l.t.Helper()
	before := l.status().Daemon
	l.must(l.cmd.Process.Signal(syscall.SIGUSR2))
	l.until("the successor answers", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		now, err := l.client().Status(ctx)
		switch {
		case err != nil:
			return err
		case now.Daemon.PID != before.PID:
			l.t.Fatalf("process %d has become %d", before.PID, now.Daemon.PID)
		case now.Daemon.Started.Equal(before.Started):
			return errors.New("it is still the old one")
		}
		return nil
	})
}

// told is what the kernel has been told, with the devices' numbers.
func (l *line) told() []string {
	l.t.Helper()
	lines := l.network()
	name := regexp.MustCompile(`tunlb_[a-z]+_[0-9]+`)
	for i := range lines { // how many rules a table has, and its number, may change
		if strings.HasPrefix(lines[i], "table ") {
			lines[i] = "table " + name.FindString(lines[i])
		}
	}
	links, err := l.lab.NS("lb").Handle().LinkList()
	l.must(err)
	for _, link := range links {
		lines = append(lines, fmt.Sprintf("%s is number %d, master %d", link.Attrs().Name, link.Attrs().Index, link.Attrs().MasterIndex))
	}
	slices.Sort(lines)
	return lines
}

func (l *line) stays(what string, before []string) {
	l.t.Helper()
	if diff := cmp.Diff(before, l.told()); diff != "" {
		l.t.Errorf("%s (-before +after):\n%s", what, diff)
	}
}

// ways are those by which packets come to tunlb, with what it leaves to its successor for each.
var ways = []struct{ name, file string }{
	{"tun", ""},
	{"tun-offload-off", "ports: [{addresses: [10.255.0.1/30, \"fd00:255::1/126\"], router: [10.255.0.2, \"fd00:255::2\"], offload: off}]\n"},
	{"packet", "ports: [{name: eth0, type: packet}, {name: eth1, type: packet}]\n"},
	{"kernel", "fastpath: kernel\n"},
}

func eachWay(t *testing.T, test func(t *testing.T, l *line, own bool)) {
	needLab(t)
	for _, way := range ways {
		for _, own := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/own-vip=%v", way.name, own), func(t *testing.T) {
				test(t, openLine(t, labnet.Story(labnet.StoryOptions{OwnVIP: own}), way.file+echoConfig), own)
			})
		}
	}
}

// TestKilledAndSucceeded: while nobody is there the kernel says nothing for tunlb and passes nothing on past it; the successor goes on with
// the same devices, rules and tables; and the last of the line leaves what was before the first.
func TestKilledAndSucceeded(t *testing.T) {
	eachWay(t, func(t *testing.T, l *line, own bool) {
		l.start()
		traffic := l.traffic()
		before := l.told()
		l.die()
		watch := l.watch()
		l.stays("killed, with all left behind", before)
		traffic.inTheGap(2)
		l.stays("in the gap", before)
		for _, wrong := range watch.end() {
			t.Error(wrong)
		}
		l.start()
		l.stays("succeeded", before)
		traffic.goesOn()
		l.works()
		l.stop()
		if names := l.keeper.Names(); len(names) > 0 {
			t.Errorf("still kept: %q", names)
		}
	})
}

// TestKilledAlone: what the tests of a succession look for is there where nobody keeps anything: they would see it.
func TestKilledAlone(t *testing.T) {
	eachWay(t, func(t *testing.T, l *line, own bool) {
		l.site.start()
		traffic := l.traffic()
		l.kill()
		watch := l.watch()
		traffic.inTheGap(1)
		l.until("something wrong to be seen", func() error {
			if len(watch.wrong()) == 0 {
				return errors.New("nothing")
			}
			return nil
		})
		watch.end()
		l.site.start()
		l.stop()
	})
}

// TestUpgraded: the same where the process becomes its successor, without and with a service manager.
func TestUpgraded(t *testing.T) {
	eachWay(t, func(t *testing.T, l *line, own bool) {
		if own {
			l.start()
		} else {
			l.site.start()
		}
		traffic := l.traffic()
		before := l.told()
		watch := l.watch()
		l.upgrade()
		l.stays("upgraded", before)
		for _, wrong := range watch.end() {
			t.Error(wrong)
		}
		l.works()
		l.upgrade()
		traffic.goesOn()
		l.works()
		l.stop()
	})
}

// TestFiftySuccessions: nothing gathers.
func TestFiftySuccessions(t *testing.T) {
	needLab(t)
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			l := openLine(t, labnet.Story(labnet.StoryOptions{OwnVIP: true}), way.file+echoConfig)
			l.start()
			l.upgrade() // what the first one has inherited from its parent is gone with the second
			before, names, descriptors := l.told(), l.keeper.Names(), l.descriptors()
			for range 50 {
				l.upgrade()
			}
			l.stays("after fifty upgrades", before)
			if got := l.keeper.Names(); !slices.Equal(got, names) {
				t.Errorf("kept: %q, at first %q", got, names)
			}
			l.until("as many descriptors as before", func() error {
				if got := l.descriptors(); len(got) > len(descriptors) {
					return fmt.Errorf("descriptors %q, at first %q", got, descriptors)
				}
				return nil
			})
			l.works()
			l.stop()
		})
	}
}

// descriptors are what the process has open.
func (l *line) descriptors() (list []string) {
	l.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", l.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	l.must(err)
	for _, e := range entries {
		to, _ := os.Readlink(dir + "/" + e.Name())
		list = append(list, strings.TrimRight(to, "0123456789[]"))
	}
	slices.Sort(list)
	return list
}

// TestSuccessorOfAnotherKind: a successor whose file wants other ports has no use for the old devices: they go, and what the kernel
// was told for them, and at the end all is as before the first.
func TestSuccessorOfAnotherKind(t *testing.T) {
	needLab(t)
	const tun, other, interfaces = "", "ports: [{name: lb7, addresses: [10.255.0.1/30, \"fd00:255::1/126\"], router: [10.255.0.2, \"fd00:255::2\"]}]\n", "ports: [{name: eth0, type: packet}, {name: eth1, type: packet}]\n"
	for name, files := range map[string][2]string{
		"another name": {tun, other}, "interfaces": {tun, interfaces}, "a TUN": {interfaces, other}, "the kernel": {tun, "fastpath: kernel\n"}, "not the kernel": {"fastpath: kernel\n", tun},
	} {
		t.Run(name, func(t *testing.T) {
			l := openLine(t, labnet.Story(labnet.StoryOptions{OwnVIP: true}), files[0]+echoConfig)
			l.start()
			l.works()
			l.die()
			l.write(files[1] + echoConfig)
			l.start()
			l.works()
			links, err := l.lab.NS("lb").Handle().LinkList()
			l.must(err)
			tuns := 0
			for _, link := range links {
				if _, ok := link.(*netlink.Tuntap); ok {
					tuns++
				}
			}
			if want := map[bool]int{true: 0, false: 1}[files[1] == interfaces]; tuns != want {
				t.Errorf("%d TUNs, want %d", tuns, want)
			}
			l.stop()
			if names := l.keeper.Names(); len(names) > 0 {
				t.Errorf("still kept: %q", names)
			}
		})
	}
}

// TestSuccessorFails: one that can't start leaves everything to the next one.
func TestSuccessorFails(t *testing.T) {
	needLab(t)
	l := openLine(t, labnet.Story(labnet.StoryOptions{OwnVIP: true}), echoConfig)
	l.start()
	before := l.told()
	l.die()
	l.write(echoConfig + "metrics: {listen: \"192.0.2.77:9474\"}\n")
	failed := l.command("run", "-f", l.config)
	release, err := l.keeper.Equip(failed.Cmd)
	l.must(err)
	l.must(failed.Start())
	release()
	l.keeper.Trust(failed.Process.Pid)
	if err := failed.Wait(); failed.ProcessState.ExitCode() != exitFailed {
		t.Errorf("started with metrics at an address of nobody's: %v", err)
	}
	l.settle()
	l.stays("after one that could not start", before)
	l.write(echoConfig)
	l.start()
	l.stays("succeeded", before)
	l.works()
	l.stop()
}

// works wants the services to work, in both families.
func (l *line) works() {
	l.t.Helper()
	for _, vip := range vips {
		if got := l.sequence("client", "http://"+hostPort(vip, 80)+"/", 3); len(strings.Fields(got)) != 3 {
			l.t.Errorf("%s: %s", vip, got)
		}
		l.echo(l.dial("client", "udp", hostPort(vip, 7)), []byte("hello"))
		l.ping("client", vip)
	}
}

// traffic is what goes on when a tunlb dies.
type traffic struct {
	*line
	tcp, udp []net.Conn
	cancel   context.CancelFunc
	loads    sync.WaitGroup
}

// traffic has connections opened, of which some are downloads that do not end.
func (l *line) traffic() *traffic {
	l.t.Helper()
	tr := &traffic{line: l}
	var ctx context.Context
	ctx, tr.cancel = context.WithCancel(context.Background())
	l.t.Cleanup(func() {
		tr.cancel()
		tr.loads.Wait()
	})
	for _, vip := range vips {
		tcp, udp := l.dial("client", "tcp", hostPort(vip, 7)), l.dial("client", "udp", hostPort(vip, 7))
		l.echo(tcp, []byte("before"))
		l.echo(udp, []byte("before"))
		tr.tcp, tr.udp = append(tr.tcp, tcp), append(tr.udp, udp)
		if l.status().Fastpath != nil { // the kernel would carry on with them, faster than anybody can watch
			continue
		}
		started := make(chan struct{})
		tr.loads.Go(func() {
			client := l.lab.NS("client").HTTPClient()
			defer client.CloseIdleConnections()
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/bytes/%d", hostPort(vip, 80), int64(1)<<40), nil)
			resp, err := client.Do(req)
			close(started)
			if err != nil {
				return
			}
			defer resp.Body.Close()
			b, pace := make([]byte, 1<<14), time.NewTicker(time.Millisecond) // so that it can be watched
			defer pace.Stop()
			for err == nil { // until the end of the test, or of the connection
				<-pace.C
				_, err = resp.Body.Read(b)
			}
		})
		<-started
	}
	return tr
}

// goesOn wants the connections to be those that they were.
func (tr *traffic) goesOn() {
	tr.t.Helper()
	for i := range vips {
		for _, conn := range []net.Conn{tr.tcp[i], tr.udp[i]} {
			tr.must(conn.SetDeadline(time.Now().Add(patience)))
			tr.echo(conn, []byte("after"))
		}
	}
}

// inTheGap sends all that a kernel could answer or pass on, and waits until it has been sent so many times.
func (tr *traffic) inTheGap(times int) {
	t := tr.t
	t.Helper()
	client := tr.lab.NS("client")
	out, err := client.Sniff("eth0")
	tr.must(err)
	defer out.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i, vip := range vips {
		_, err := tr.tcp[i].Write([]byte("in the gap"))
		tr.must(err)
		_, err = tr.udp[i].Write([]byte("in the gap"))
		tr.must(err)
		fresh := tr.dial("client", "udp", hostPort(vip, 7))
		fresh.Write([]byte("in the gap"))
		go func() { // ends with ctx
			if conn, err := client.DialContext(ctx, "tcp", hostPort(vip, 80)); err == nil {
				conn.Close()
			}
		}()
		if tr.pings(vip) {
			request := []byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}
			network := "ip4:icmp"
			if strings.Contains(vip, ":") {
				request[0], network = 128, "ip6:ipv6-icmp"
			} else {
				binary.BigEndian.PutUint16(request[2:], internetChecksum(request))
			}
			ping := tr.dial("client", network, vip)
			ping.Write(request)
		}
	}
	for _, vip := range vips { // a SYN and data: TCP tries again, which takes it a second
		to := netip.MustParseAddr(vip)
		counts := map[string]int{}
		_, err := out.Wait(ctx, func(p netns.Packet) bool {
			h, ok := headOf(p)
			if ok && p.Out && h.dst == to && h.proto == 6 {
				kind := "data"
				if h.flags&2 != 0 {
					kind = "SYN"
				}
				counts[kind]++
			}
			return counts["SYN"] >= times && counts["data"] >= times
		})
		if err != nil {
			t.Errorf("%s: what is sent again: %v: %v", vip, counts, err)
		}
	}
}

// pings says whether tunlb answers pings to the VIP: those to the box's own are the kernel's.
func (tr *traffic) pings(vip string) bool {
	addrs, err := tr.lab.NS("lb").Handle().AddrList(nil, netlink.FAMILY_ALL)
	tr.must(err)
	return !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(net.ParseIP(vip)) })
}

// watcher looks for what must not be seen: at the client, and at the servers.
type watcher struct {
	t        *testing.T
	sniffers map[string]*netns.Sniffer
}

func (l *line) watch() *watcher {
	l.t.Helper()
	w := &watcher{l.t, map[string]*netns.Sniffer{}}
	for _, node := range []string{"client", "rs1", "rs2", "rs3"} {
		s, err := l.lab.NS(node).Sniff("eth0")
		l.must(err)
		w.sniffers[node] = s
	}
	return w
}

// end tells what has been wrong until now.
func (w *watcher) end() []string {
	w.t.Helper()
	for _, s := range w.sniffers {
		if err := s.Close(); err != nil {
			w.t.Error(err)
		}
	}
	return w.wrong()
}

func (w *watcher) wrong() (wrong []string) {
	servers := []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24"), netip.MustParsePrefix("2001:db8:c0::/64")}
	for node, s := range w.sniffers {
		for _, p := range s.Packets() {
			h, ok := headOf(p)
			if !ok || p.Out {
				continue
			}
			untranslated := slices.Contains(vips, h.dst.String())
			if node == "client" {
				untranslated = slices.ContainsFunc(servers, func(s netip.Prefix) bool { return s.Contains(h.src) })
			}
			switch {
			case untranslated:
				wrong = append(wrong, fmt.Sprintf("%s got a packet that is not translated: %+v", node, h))
			case h.proto == 6 && h.flags&4 != 0:
				wrong = append(wrong, fmt.Sprintf("%s got a reset: %+v", node, h))
			case h.isError():
				wrong = append(wrong, fmt.Sprintf("%s got an ICMP error: %+v", node, h))
			case node == "client" && h.isReply():
				wrong = append(wrong, fmt.Sprintf("%s got an answer to a ping: %+v", node, h))
			}
		}
	}
	return wrong
}

// head is what of a packet counts here.
type head struct {
	src, dst netip.Addr
	proto    uint8
	flags    byte // of TCP; the type of ICMP
}

func headOf(p netns.Packet) (h head, ok bool) {
	ip := p.Payload()
	var l4 []byte
	switch {
	case len(ip) >= 20 && ip[0]>>4 == 4:
		h.proto = ip[9]
		h.src, h.dst = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
		l4 = ip[min(len(ip), int(ip[0]&15)*4):]
	case len(ip) >= 40 && ip[0]>>4 == 6:
		h.proto = ip[6]
		h.src, h.dst = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
		l4 = ip[40:]
	default:
		return h, false
	}
	switch {
	case h.proto == 6 && len(l4) >= 20:
		h.flags = l4[13]
	case (h.proto == 1 || h.proto == 58) && len(l4) >= 8:
		h.flags = l4[0]
	}
	return h, true
}

func (h head) isError() bool {
	return h.proto == 1 && slices.Contains([]byte{3, 5, 11, 12}, h.flags) || h.proto == 58 && (h.flags < 128 || h.flags == 137)
}

func (h head) isReply() bool { return h.proto == 1 && h.flags == 0 || h.proto == 58 && h.flags == 129 }

// TestSuccessorOfDeleted: what a deleted server still says to its clients passes a successor as it did its predecessor, which alone had
// seen the server deleted; and with the last connection that is over.
func TestSuccessorOfDeleted(t *testing.T) {
	needLab(t)
	const (
		both = "services: [{name: echo, listen: 203.0.113.22:7, scheduler: rr, on_delete: keep, servers: [{name: rs1, address: 192.168.0.10}, {name: rs2, address: 192.168.0.11}]}]\n"
		one  = "services: [{name: echo, listen: 203.0.113.22:7, scheduler: rr, on_delete: keep, servers: [{name: rs2, address: 192.168.0.11}]}]\n"
	)
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			l := openLine(t, labnet.Story(labnet.StoryOptions{}), way.file+both)
			l.start()
			var conns []net.Conn
			for range 2 {
				conns = append(conns, l.dial("client", "tcp", "203.0.113.22:7"))
			}
			all := func(when string) {
				t.Helper()
				for _, c := range conns {
					l.echo(c, []byte(when))
				}
			}
			all("at first")
			l.write(way.file + one)
			l.done("reload")
			all("deleted")
			told := l.told()
			l.die()
			l.start()
			all("killed")
			l.stays("killed", told)
			l.upgrade()
			all("upgraded")
			l.stays("upgraded", told)
			l.stop()
		})
	}
}
