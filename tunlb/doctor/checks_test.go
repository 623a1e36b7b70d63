package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/control"
)

// parse makes a configuration of a file's text.
func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("tunlb.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

const natFile = `services:
  - {name: web, listen: "203.0.113.22:80/tcp", servers: [{name: rs1, address: "192.168.0.10:8080"}]}
  - {name: web6, listen: "[2001:db8:113::22]:80/tcp", servers: [{name: rs1, address: "[2001:db8:c0::10]:8080"}]}
`

const drFile = `ports: [{name: tap0, type: tap, bridge: br0, addresses: [203.0.113.2/24, "2001:db8:113::2/64"], routes: [default via 203.0.113.1, "default via 2001:db8:113::1"]}]
services:
  - {name: web, listen: "203.0.113.22:80/tcp", mode: dr, servers: [{name: rs1, address: 203.0.113.10}]}
  - {name: web6, listen: "[2001:db8:113::22]:80/tcp", mode: dr, servers: [{name: rs1, address: "2001:db8:113::10"}]}
`

const switchFile = `ports: [{name: eth0, type: packet, side: clients, addresses: [203.0.113.2/24]}, {name: eth1, type: packet, side: servers}]
services: [{name: web, listen: "203.0.113.22:80/tcp", mode: dr, servers: [203.0.113.10]}]
`

const oneArmFile = `ports: [{name: eth0, type: packet, addresses: [203.0.113.2/24]}]
services: [{name: web, listen: "203.0.113.22:80/tcp", mode: dr, servers: [203.0.113.10]}]
`

const boxFile = `ports: [{name: eth0, type: packet}, {name: eth1, type: packet}]
` + natFile

const fastFile = "fastpath: kernel\n" + natFile

const oneFamilyFile = `ports: [{name: tap0, type: tap, bridge: br0, addresses: [203.0.113.2/24]}]
services: [{name: web, listen: "203.0.113.22:80/tcp", mode: dr, servers: [203.0.113.10]}]
`

// wideFile has what a service may have more than one of.
const wideFile = `ports: [{addresses: [10.255.0.1/30, "fd00:7474::1/126"]}, {name: tap0, type: tap, bridge: br0, addresses: [203.0.113.2/24, "2001:db8:113::2/64"]}]
services:
  - {name: near, listen: ["203.0.113.22:80", "203.0.113.23:8000-8100/udp"], mode: dr, servers: [{name: rs1, address: 203.0.113.10}, {name: rs2, address: 203.0.113.11, mode: fullnat}]}
  - {name: near6, listen: ["[2001:db8:113::22]:80", "[2001:db8:113::23]:0"], persistence: 5m, mode: dr, servers: [{name: rs1, address: "2001:db8:113::10"}]}
  - {name: far, listen: ["192.0.2.22:0", "192.0.2.23:80"], persistence: 5m, servers: [{name: rs1, address: 192.168.0.10}, {name: rs2, address: 192.168.0.11, mode: dr}]}
  - {name: far6, listen: "[2001:db8:2::22]:8000-8100", servers: [{name: rs1, address: "2001:db8:c0::10"}, {name: rs2, address: "2001:db8:c0::11", mode: dr}]}
  - {name: mixed, listen: "203.0.113.24:80", mode: dr, servers: [{name: rs1, address: 203.0.113.11, mode: fullnat}, {name: rs2, address: 192.168.0.11}]}
`

const gatewayFile = natFile + "gateway: [{inside: 192.168.0.0/24, masquerade: 198.51.100.9, ports: 50000-61000}]\n"

const metricsFile = natFile + "metrics: {listen: 127.0.0.1:80}\n"

var (
	v4, v6 = netip.MustParseAddr("192.168.0.10"), netip.MustParseAddr("2001:db8:c0::10")
	lb4    = netip.MustParseAddr("192.168.0.100")
	lb6    = netip.MustParseAddr("2001:db8:c0::100")
)

// healthy is a box with eth0 towards the clients, eth1 towards the servers, and a daemon.
func healthy(t *testing.T, text string) *facts {
	t.Helper()
	f := &facts{
		Options: Options{Version: "v1"},
		file:    "tunlb.yaml", config: parse(t, text),
		status: &control.Status{Daemon: control.Info{Version: "v1", PID: 7, Config: "tunlb.yaml"}},
		tun:    tunDevice{driver: true},
		ingress: []ingress{
			{"eth0", netip.MustParseAddr("198.51.100.7"), true}, {"eth0", netip.MustParseAddr("2001:db8:1::7"), true},
		},
		spaces: map[string]*space{"": {
			links: []link{
				{name: "lo", index: 1, mtu: 65536, loopback: true, up: true, carrier: true},
				{name: "eth0", index: 2, mtu: 1500, ethernet: true, up: true, carrier: true},
				{name: "eth1", index: 3, mtu: 1500, ethernet: true, up: true, carrier: true},
				{name: "tunlb0", index: 4, mtu: 1500, kind: "tun", up: true, carrier: true},
				{name: "tap0", index: 5, mtu: 1500, kind: "tun", tap: true, master: "br0", ethernet: true, up: true, carrier: true},
				{name: "br0", index: 6, mtu: 1500, kind: "bridge", ethernet: true, up: true, carrier: true},
				{name: "veth0", index: 7, mtu: 1500, kind: "veth", master: "br0", ethernet: true, up: true, carrier: true},
				{name: "veth1", index: 8, mtu: 1500, kind: "veth", master: "br0", ethernet: true, up: true, carrier: true},
			},
			addresses: []address{
				{netip.MustParsePrefix("198.51.100.1/24"), "eth0"}, {netip.MustParsePrefix("2001:db8:1::1/64"), "eth0"},
				{netip.MustParsePrefix("192.168.0.100/24"), "eth1"}, {netip.MustParsePrefix("2001:db8:c0::100/64"), "eth1"},
			},
			sysctls: map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/tunlb0/accept_local": "1"},
		}},
	}
	f.box().guarded = map[string]bool{}
	for _, p := range f.config.Ports {
		f.box().guarded[p.Name] = p.Box()
		f.status.Ports = append(f.status.Ports, tunlb.PortStatus{Name: p.Name, NetNS: p.NetNS})
	}
	for _, svc := range f.config.Services {
		s := tunlb.ServiceStatus{Name: svc.Name, Listen: svc.Listen, Mode: svc.Mode.String()}
		for _, srv := range svc.Servers {
			s.Servers = append(s.Servers, tunlb.ServerStatus{Name: srv.Name, Address: srv.Address, Mode: srv.Mode.String(), Weight: srv.Weight, Configured: srv.Weight, Traffic: tunlb.Traffic{InPackets: 9, OutPackets: 9}})
			if svc.Mode != policy.NAT {
				continue
			}
			source := lb4
			if srv.Address.Addr().Is6() {
				source = lb6
			}
			a := answer{device: "eth1", source: source}
			f.servers = append(f.servers, server{service: svc.Name, name: srv.Name, addr: srv.Address, proto: svc.Listen[0].Proto, anyPort: srv.Address.Port() == 0, route: a, written: a, dialed: true, state: "reachable"})
		}
		f.status.Services = append(f.status.Services, s)
	}
	return f
}

// stopped takes the daemon away.
func stopped(f *facts) {
	f.status, f.statusErr = nil, control.ErrNoDaemon
	box := f.box()
	for i := range box.links {
		if box.links[i].kind == "tun" {
			box.links[i].name += "-gone"
		}
	}
}

// unprivileged takes the privilege away from who asks; a daemon runs.
func unprivileged(f *facts) { f.caps.admin = syscall.EPERM }

// filter is one chain that forwarded packets come through.
func filter(name string, drop bool, rules ...filterRule) func(*facts) {
	return func(f *facts) {
		words := strings.Fields(name)
		f.box().chains = append(f.box().chains, chain{family: words[0], table: words[1], name: words[2], hook: "forward", drop: drop, rules: rules})
	}
}

// set is an edit of a setting.
func set(path, value string) func(*facts) {
	return func(f *facts) { f.box().sysctls[path] = value }
}

func edits(list ...func(*facts)) func(*facts) {
	return func(f *facts) {
		for _, edit := range list {
			edit(f)
		}
	}
}

func device(name string, edit func(*link)) func(*facts) {
	return func(f *facts) { edit(f.box().link(name)) }
}

// TestHealthy: the facts that the other tests spoil are in order by themselves.
func TestHealthy(t *testing.T) {
	for _, text := range []string{natFile, drFile, switchFile, boxFile, fastFile} {
		for _, f := range healthy(t, text).judge().Findings {
			if f.Severity == Warn || f.Severity == Fail {
				t.Errorf("%+v", f)
			}
		}
		f := healthy(t, text)
		stopped(f)
		for _, f := range f.judge().Findings {
			if f.Severity == Warn || f.Severity == Fail {
				t.Errorf("before the start: %+v", f)
			}
		}
	}
}

// TestChecks spoils one fact at a time.
func TestChecks(t *testing.T) {
	const (
		anew    = ", then start tunlb anew: tunlb check tunlb.yaml && kill 7 && tunlb run -f tunlb.yaml"
		mtuFix  = "write `mtu: %d` for port %s into tunlb.yaml" + anew
		rename  = "write another name, such as `name: tunlb1`, for port %s into tunlb.yaml"
		check   = ", then: tunlb check tunlb.yaml"
		loopFix = "bridge link  # find the bridge or cable that joins the two sides, and take one port out: ip link set PORT nomaster"
		mknod   = "mkdir -p /dev/net && mknod /dev/net/tun c 10 200 && chmod 0666 /dev/net/tun"
	)
	for _, test := range []struct {
		name, file string
		spoil      func(*facts)
		want       Finding // Text is a part of what it is
	}{
		{"no daemon", natFile, stopped, Finding{Note, "control", "control socket", "before its start", "", false}},
		{"no daemon, no file", natFile, edits(stopped, func(f *facts) { f.file, f.config = "", nil }), Finding{Note, "control", "control socket", "about the machine only", "tunlb doctor -f FILE", false}},
		{"leftovers", natFile, edits(stopped, func(f *facts) { f.box().rules = []rule{{pref: 7410, ours: true, iif: "tunlb0"}} }), Finding{Note, "control", "policy rules", "a killed tunlb has left 1", "tunlb clean", false}},
		{"socket elsewhere", natFile, edits(stopped, func(f *facts) {
			f.box().links[3].name = "tunlb0"
			f.box().rules = []rule{{pref: 7410, ours: true, iif: "tunlb0"}}
		}), Finding{Warn, "control", "control socket", "with device tunlb0", "tunlb doctor --socket PATH", false}},
		{"socket forbidden", natFile, func(f *facts) { f.status, f.statusErr = nil, fs.ErrPermission }, Finding{Fail, "control", "control socket", "permission denied", "sudo tunlb doctor", false}},
		{"other version", natFile, func(f *facts) { f.Version = "v2" }, Finding{Warn, "control", "process 7", "the daemon is tunlb v1, this is v2", "kill 7 && tunlb run -f tunlb.yaml", false}},

		{"file gone", natFile, func(f *facts) { f.config, f.fileErr = nil, errors.New("one\ntwo") }, Finding{Warn, "file", "tunlb.yaml", "goes unchecked: one ...", "tunlb check tunlb.yaml", false}},
		{"file changed", natFile, func(f *facts) { f.config.Services[0].Servers[0].Weight++ }, Finding{Warn, "file", "tunlb.yaml", "not those in force", "tunlb reload", false}},
		{"other file", natFile, func(f *facts) { f.File, f.file = "other.yaml", "other.yaml" }, Finding{Warn, "file", "other.yaml", "another file, tunlb.yaml", "tunlb doctor", false}},

		{"no tun node", natFile, edits(stopped, func(f *facts) { f.tun.err = syscall.ENOENT }), Finding{Fail, "tun", tunPath, "is missing", mknod, true}},
		{"no tun driver", natFile, edits(stopped, func(f *facts) { f.tun = tunDevice{err: syscall.ENOENT} }), Finding{Fail, "tun", tunPath, "driver is not loaded", "modprobe tun", true}},
		{"tun forbidden", natFile, edits(stopped, func(f *facts) { f.tun.err = syscall.EACCES }), Finding{Fail, "tun", tunPath, "may not be opened", "chmod 0666 /dev/net/tun  # as root", true}},
		{"tun forbidden, user namespace", natFile, edits(stopped, func(f *facts) { f.tun.err, f.caps.userns = syscall.EACCES, true }), Finding{Fail, "tun", tunPath, "may not be opened", "chmod 0666 /dev/net/tun  # as root, outside of this user namespace", true}},
		{"tun forbidden to doctor alone", natFile, func(f *facts) { f.tun.err = syscall.EACCES }, Finding{Note, "tun", tunPath, "the daemon has it", "", false}},
		{"no privilege", natFile, edits(stopped, func(f *facts) { f.caps.admin = syscall.EPERM }), Finding{Fail, "privilege", "this process", "has no CAP_NET_ADMIN", "sudo tunlb run -f tunlb.yaml", true}},
		{"no privilege, user namespace", natFile, edits(stopped, func(f *facts) { f.caps = capabilities{admin: syscall.EPERM, userns: true} }), Finding{Fail, "privilege", "this process", "this is a user namespace", "unshare -Urn tunlb run -f tunlb.yaml", true}},
		{"no raw sockets", switchFile, edits(stopped, func(f *facts) { f.caps.raw = syscall.EPERM }), Finding{Fail, "privilege", "this process", "has no CAP_NET_RAW", "sudo tunlb run -f tunlb.yaml", true}},

		{"device gone", natFile, func(f *facts) { f.box().links[3].name = "x" }, Finding{Fail, "port", "tunlb0", "somebody has deleted it", "tunlb run -f tunlb.yaml", false}},
		{"device down", natFile, device("tunlb0", func(l *link) { l.up = false }), Finding{Fail, "port", "tunlb0", "is down", "ip link set dev tunlb0 up", false}},
		{"device taken", natFile, edits(stopped, func(f *facts) { f.box().links[2].name = "tunlb0" }), Finding{Fail, "port", "tunlb0", "an interface of another kind", fmt.Sprintf(rename, "tunlb0") + check, false}},
		{"device in use", natFile, edits(stopped, func(f *facts) { f.box().links[3].name = "tunlb0" }), Finding{Fail, "port", "tunlb0", "in use by another process", fmt.Sprintf(rename, "tunlb0") + check, false}},
		{"tap is tun", drFile, device("tap0", func(l *link) { l.tap = false }), Finding{Fail, "port", "tap0", "an interface of another kind", fmt.Sprintf(rename, "tap0") + anew, false}},
		{"bridge missing", drFile, func(f *facts) { f.box().links[5].name = "x" }, Finding{Fail, "port", "br0", "there is no such bridge", "ip link add br0 type bridge && ip link set dev br0 up", false}},
		{"bridge is none", drFile, device("br0", func(l *link) { l.kind = "veth" }), Finding{Fail, "port", "br0", "is no bridge", "ip link  # there is no bridge that is free", false}},
		{"bridge is none, there is another", drFile, edits(stopped, device("br0", func(l *link) { l.kind = "veth" }), func(f *facts) {
			f.box().links = append(f.box().links, link{name: "br1", kind: "bridge"})
		}), Finding{Fail, "port", "br0", "is no bridge", "write the name of a free bridge (br1) for port tap0 into tunlb.yaml" + check, false}},
		{"bridge left", drFile, device("tap0", func(l *link) { l.master = "" }), Finding{Fail, "port", "tap0", "has left its bridge br0", "ip link set dev tap0 master br0", false}},
		{"interface without carrier", switchFile, device("eth1", func(l *link) { l.carrier = false }), Finding{Warn, "port", "eth1", "has no carrier", "ip link show dev eth1", false}},
		{"interface of no frames", switchFile, device("eth1", func(l *link) { l.ethernet = false }), Finding{Fail, "port", "eth1", "is no Ethernet interface", "write the name of a free Ethernet interface (br0) for port eth1 into tunlb.yaml" + anew, false}},
		{"no interface", switchFile, edits(stopped, func(f *facts) { f.box().links[1].name = "wan0" }), Finding{Fail, "port", "eth0", "there is no such interface", "write the name of a free Ethernet interface (wan0, br0) for port eth0 into tunlb.yaml" + check, false}},
		{"no interface at all", switchFile, edits(stopped, func(f *facts) {
			f.box().links = f.box().links[:3:3]
			f.box().links[1].name = "dummy0"
			f.box().links[1].kind = "dummy"
		}), Finding{Fail, "port", "eth0", "there is no such interface", "ip link  # there is no Ethernet interface that is free", false}},
		{"interface in a bridge", switchFile, device("eth1", func(l *link) { l.master = "br0" }), Finding{Fail, "port", "eth1", "is a port of br0", "ip link set eth1 nomaster", false}},
		{"interface in a bridge, before", switchFile, edits(stopped, device("eth0", func(l *link) { l.master = "br0" })), Finding{Fail, "port", "eth0", "is a port of br0", "ip link set eth0 nomaster", false}},
		{"interface with VLANs", switchFile, func(f *facts) {
			f.box().links = append(f.box().links, link{name: "eth1.5", kind: "vlan", parent: "eth1"}, link{name: "v6", kind: "vlan", parent: "eth1"})
		}, Finding{Note, "port", "eth1", "frames of VLANs (eth1.5, v6) do not pass between packet ports", "", false}},

		{"forwarding off", natFile, set("ipv4/ip_forward", "0"), Finding{Fail, "forwarding", "net.ipv4.ip_forward", "is 0", "sysctl -w net.ipv4.ip_forward=1", false}},
		{"forwarding off, IPv6", natFile, set("ipv6/conf/all/forwarding", "0"), Finding{Fail, "forwarding", "net.ipv6.conf.all.forwarding", "is 0", "sysctl -w net.ipv6.conf.all.forwarding=1", false}},
		{"forwarding off before", natFile, edits(stopped, set("ipv4/ip_forward", "0")), Finding{Note, "forwarding", "net.ipv4.ip_forward", "tunlb switches it on", "", false}},
		{"forwarding off for a device", natFile, set("ipv4/conf/tunlb0/forwarding", "0"), Finding{Fail, "forwarding", "tunlb0", "forwards nothing", "sysctl -w net.ipv4.conf.tunlb0.forwarding=1", false}},
		{"no IPv6", natFile, func(f *facts) { delete(f.box().sysctls, "ipv6/conf/all/forwarding") }, Finding{Fail, "forwarding", "net.ipv6.conf.all.forwarding", "without IPv6", "sysctl -w net.ipv6.conf.all.disable_ipv6=0", false}},

		{"strict by the device", natFile, set("ipv4/conf/tunlb0/rp_filter", "1"), Finding{Fail, "rp_filter", "tunlb0", "is strict", "sysctl -w net.ipv4.conf.tunlb0.rp_filter=2", false}},
		{"strict by all", natFile, set("ipv4/conf/all/rp_filter", "1"), Finding{Fail, "rp_filter", "tunlb0", "is strict", "sysctl -w net.ipv4.conf.tunlb0.rp_filter=2", false}},
		{"strict, way back elsewhere", natFile, edits(set("ipv4/conf/eth0/rp_filter", "1"), func(f *facts) {
			f.box().addresses = append(f.box().addresses, address{netip.MustParsePrefix("203.0.113.22/32"), "eth0"})
			f.ingress = append(f.ingress, ingress{"eth2", everywhere4, false})
		}), Finding{Warn, "rp_filter", "eth0", "the default route leads by eth2", "sysctl -w net.ipv4.conf.eth0.rp_filter=2", false}},
		{"strict, has dropped", natFile, edits(set("ipv4/conf/eth0/rp_filter", "1"), func(f *facts) { f.box().filtered = 3 }), Finding{Warn, "rp_filter", "eth0", "has dropped 3 packets", "sysctl -w net.ipv4.conf.eth0.rp_filter=2", false}},

		{"VIP on link", natFile, func(f *facts) { f.box().addresses[0].prefix = netip.MustParsePrefix("203.0.113.1/24") }, Finding{Warn, "vip", "203.0.113.22", "nobody answers its neighbours", "ip addr add 203.0.113.22/32 dev eth0", false}},
		{"VIP on link, IPv6", natFile, func(f *facts) { f.box().addresses[1].prefix = netip.MustParsePrefix("2001:db8:113::1/64") }, Finding{Warn, "vip", "2001:db8:113::22", "nobody answers its neighbours", "ip addr add 2001:db8:113::22/128 dev eth0", false}},
		{"local table in front", natFile, edits(stopped, func(f *facts) {
			f.box().addresses = append(f.box().addresses, address{netip.MustParsePrefix("203.0.113.22/32"), "lo"})
			f.box().rules = []rule{{family: 4, pref: 50, local: true}}
		}), Finding{Fail, "vip", "203.0.113.22", "one stands at preference 50", "ip rule add pref 0 lookup local && ip rule del pref 50", false}},

		{"rules gone", natFile, func(f *facts) {
			f.entries = []entry{{"web", question{from: lb4, to: v4}, answer{device: "eth1"}}}
		}, Finding{Fail, "rules", "web", "do not go into tunlb0 but to eth1: tunlb's policy rules are gone", "tunlb reload", false}},
		{"rule in front", natFile, func(f *facts) {
			f.entries = []entry{{"web6", question{from: lb6, to: v6}, answer{device: "eth1"}}}
			f.box().rules = []rule{{family: 6, pref: 10, text: "lookup 100", plain: true, covers: func(question) bool { return true }}}
		}, Finding{Fail, "rules", "web6", "the rule at preference 10", "ip -6 rule add pref 7500 lookup 100 && ip -6 rule del pref 10 lookup 100", false}},
		{"answers astray", natFile, func(f *facts) {
			f.servers[0].replied, f.servers[0].reply = true, entry{"web/rs1", question{from: v4, to: lb4}, answer{local: true}}
			f.box().rules = []rule{{family: 4, pref: 7410, ours: true}}
		}, Finding{Fail, "rules", "web/rs1", "answers from 192.168.0.10 to 192.168.0.100 do not go into tunlb0 but to this box itself: tunlb's policy rules are not complete", "tunlb reload", false}},

		{"no route", natFile, edits(stopped, func(f *facts) { f.servers[0].route = answer{err: syscall.ENETUNREACH} }), Finding{Fail, "route", "web/rs1", "no route to 192.168.0.10", "ip route add 192.168.0.10 dev INTERFACE  # or: via ROUTER", false}},
		{"route loops", natFile, func(f *facts) { f.servers[1].written.device = "tunlb0" }, Finding{Fail, "route", "web6/rs1", "leads back through tunlb's own tunlb0", "ip -6 route get 2001:db8:c0::10  # then delete the route that it shows", false}},
		{"silent server", natFile, func(f *facts) { f.servers[0].state = "failed" }, Finding{Fail, "neighbour", "web/rs1", "does not answer ARP on eth1 (failed)", "ip addr show to 192.168.0.10  # on rs1: its interface has to be up and have the address", false}},
		{"silent router", natFile, func(f *facts) { f.servers[1].state, f.servers[1].route.gateway = "incomplete", lb6 }, Finding{Fail, "neighbour", "2001:db8:c0::100", "the router on the way to web6/rs1 does not answer neighbour discovery", "ip -6 route get 2001:db8:c0::10", false}},
		{"refused", natFile, func(f *facts) { f.servers[0].dialErr = syscall.ECONNREFUSED }, Finding{Warn, "server", "web/rs1", "refuses connections to 192.168.0.10:8080", "ss -ltn 'sport = :8080'  # on rs1", false}},
		{"no answer", natFile, func(f *facts) { f.servers[0].dialErr = syscall.ETIMEDOUT }, Finding{Warn, "server", "web/rs1", "does not answer on 192.168.0.10:8080", "ss -ltn 'sport = :8080'  # on rs1", false}},
		{"answers led away", natFile, func(f *facts) { f.servers[0].dialErr, f.servers[0].hidden = syscall.ETIMEDOUT, true }, Finding{Note, "server", "this box", "clients' connections are not concerned", "sysctl -w net.ipv4.tcp_early_demux=0", false}},

		{"no gateway", natFile, traffic(0, 3, 0), Finding{Fail, "gateway", "web/rs1", "has got 3 packets and answered none: its default gateway is probably not this box", "ip route replace default via 192.168.0.100  # on rs1", false}},
		{"no gateway, IPv6", natFile, traffic(1, 3, 0), Finding{Fail, "gateway", "web6/rs1", "has got 3 packets and answered none", "ip -6 route replace default via 2001:db8:c0::100  # on rs1", false}},
		{"gateway lost", natFile, conns("web", "192.168.0.10:8080", "SYN_RECV", "SYN_RECV"), Finding{Fail, "gateway", "web/rs1", "has not answered any of its last 2 connections", "ip route replace default via 192.168.0.100  # on rs1", false}},
		{"gateway behind a router", natFile, edits(traffic(0, 3, 0), func(f *facts) { f.servers[0].route.gateway = netip.MustParseAddr("192.168.0.1") }), Finding{Fail, "gateway", "web/rs1", "its way back to the clients", "ip route get 198.51.100.7  # on rs1 and on 192.168.0.1: has to lead here", false}},

		{"no gateway, one of many ports", wideFile, traffic(2, 3, 0), Finding{Fail, "gateway", "far/rs1", "has got 3 packets and answered none", "ip route replace default via 192.168.0.100  # on rs1", false}},
		{"gateway lost, one of many ports", wideFile, conns("far6", "[2001:db8:c0::10]:8001", "SYN_RECV", "SYN_RECV"), Finding{Fail, "gateway", "far6/rs1", "has not answered any of its last 2 connections", "ip -6 route replace default via 2001:db8:c0::100  # on rs1", false}},
		{"second VIP of the box", wideFile, has("203.0.113.23/32", "lo"), Finding{Fail, "arp", "lo", "has the VIP 203.0.113.23", "ip addr del 203.0.113.23/32 dev lo", false}},
		{"second VIP of the box, IPv6", wideFile, has("2001:db8:113::23/128", "eth0"), Finding{Fail, "arp", "eth0", "has the VIP 2001:db8:113::23", "ip -6 addr del 2001:db8:113::23/128 dev eth0", false}},

		{"conflict", drFile, segment(tunlb.SegmentStatus{Conflicts: []tunlb.ConflictStatus{{VIP: netip.MustParseAddr("203.0.113.22"), Server: "rs1", Port: "tap0", Kind: "reply", Count: 2, Fix: "do it"}}}), Finding{Fail, "arp", "203.0.113.22", "rs1 (00:00:00:00:00:00) claims it on tap0 (reply, 2 times)", "do it", false}},
		{"conflict, once", drFile, segment(tunlb.SegmentStatus{Conflicts: []tunlb.ConflictStatus{{VIP: netip.MustParseAddr("203.0.113.22"), Server: "rs1", Port: "tap0", Kind: "reply", Count: 1, Fix: "do it"}}}), Finding{Fail, "arp", "203.0.113.22", "(reply, 1 time)", "do it", false}},
		{"conflict of old", drFile, segment(tunlb.SegmentStatus{Conflicts: []tunlb.ConflictStatus{{VIP: netip.MustParseAddr("203.0.113.22"), Server: "rs1", Port: "tap0", Count: 2, Age: time.Minute}}}), Finding{Note, "arp", "203.0.113.22", "not in the last 1m0s", "", false}},
		{"own VIP", drFile, func(f *facts) {
			f.box().addresses = append(f.box().addresses, address{netip.MustParsePrefix("203.0.113.22/32"), "lo"})
		}, Finding{Fail, "arp", "lo", "this kernel answers for it on br0", "ip addr del 203.0.113.22/32 dev lo", false}},
		{"own VIP, IPv6", drFile, func(f *facts) {
			f.box().addresses = append(f.box().addresses, address{netip.MustParsePrefix("2001:db8:113::22/64"), "br0"})
		}, Finding{Fail, "arp", "br0", "this kernel answers for it on br0", "ip -6 addr del 2001:db8:113::22/64 dev br0", false}},
		{"own VIP on another interface", drFile, edits(set("ipv4/conf/all/arp_ignore", "1"), has("203.0.113.22/32", "eth0")), Finding{Fail, "arp", "eth0", "has the VIP 203.0.113.22: tunlb refuses", "ip addr del 203.0.113.22/32 dev eth0", false}},
		{"own VIP on another interface, IPv6, before", drFile, edits(stopped, has("2001:db8:113::22/128", "eth0")), Finding{Fail, "arp", "eth0", "has the VIP 2001:db8:113::22: tunlb refuses", "ip -6 addr del 2001:db8:113::22/128 dev eth0", false}},
		{"own VIP on lo and elsewhere", drFile, edits(set("ipv4/conf/all/arp_ignore", "1"), has("203.0.113.22/32", "lo"), has("203.0.113.22/24", "eth0")), Finding{Fail, "arp", "eth0", "has the VIP 203.0.113.22", "ip addr del 203.0.113.22/24 dev eth0", false}},
		{"own address", drFile, has("203.0.113.2/24", "eth0"), Finding{Fail, "arp", "eth0", "has 203.0.113.2, but this is to be tunlb's own on port tap0", "write another address of 203.0.113.0/24 instead of 203.0.113.2 for port tap0 into tunlb.yaml" + anew, false}},
		{"own address, IPv6, before", drFile, edits(stopped, has("2001:db8:113::2/64", "br0")), Finding{Fail, "arp", "br0", "has 2001:db8:113::2, but this is to be tunlb's own", "write another address of 2001:db8:113::/64 instead of 2001:db8:113::2 for port tap0 into tunlb.yaml" + check, false}},
		{"own address of a packet port, before", switchFile, edits(stopped, has("203.0.113.2/24", "eth1")), Finding{Fail, "arp", "eth1", "has 203.0.113.2, but this is to be tunlb's own on port eth0", "write another address of 203.0.113.0/24 instead of 203.0.113.2 for port eth0 into tunlb.yaml" + check, false}},
		{"loop", switchFile, segment(tunlb.SegmentStatus{Ports: []string{"eth0", "eth1"}, Loops: 1}), Finding{Fail, "loop", "eth0, eth1", "there is a loop between the ports: since the start 1 frame of tunlb's own came back, and stations moved from port to port 0 times", loopFix, false}},
		{"stations that move", switchFile, segment(tunlb.SegmentStatus{Ports: []string{"eth0", "eth1"}, Moves: 1001}), Finding{Fail, "loop", "eth0, eth1", "there is a loop between the ports: since the start 0 frames of tunlb's own came back, and stations moved from port to port 1001 times", loopFix, false}},
		{"direct server down", drFile, segment(tunlb.SegmentStatus{Ports: []string{"tap0"}, Neighbours: []tunlb.NeighbourStatus{{Address: v6, State: "failed", Server: "rs1"}}}), Finding{Fail, "neighbour", "rs1", "2001:db8:c0::10 does not answer neighbour discovery on tap0 (failed)", "ip -6 addr show to 2001:db8:c0::10  # on rs1: its interface has to be up and have the address", false}},
		{"router down", drFile, segment(tunlb.SegmentStatus{Ports: []string{"tap0"}, Neighbours: []tunlb.NeighbourStatus{{Address: lb4, State: "incomplete"}}}), Finding{Warn, "neighbour", "192.168.0.100", "does not answer ARP on tap0", "ip neigh show 192.168.0.100  # on another host of the segment", false}},
		{"down for another reason", drFile, func(f *facts) { f.status.Services[0].Servers[0].Down = "drained" }, Finding{Fail, "neighbour", "web/rs1", "gets no new connections: drained", "ping -c 1 203.0.113.10  # on another host of the segment", false}},
		{"passing", drFile, func(f *facts) { f.status.Services[1].Servers[0].Passing = 5 }, Finding{Note, "passing", "web6/rs1", "5 packets of its answers", "ip -6 route replace default via 2001:db8:113::1  # on rs1", false}},
		{"server without the VIP", drFile, conns("web6", "[2001:db8:113::10]:80", "SYN_RECV", "SYN_RECV"), Finding{Warn, "passing", "web6/rs1", "2 connections, and none has come past its first packet", "ip -6 addr add 2001:db8:113::22/128 dev lo  # on rs1", false}},

		{"TUN too small", natFile, device("eth1", func(l *link) { l.mtu = 9000 }), Finding{Warn, "mtu", "tunlb0", "has MTU 1500, but eth1 9000", fmt.Sprintf(mtuFix, 9000, "tunlb0"), false}},
		{"bridge port too small", drFile, func(f *facts) {
			f.box().links = append(f.box().links, link{name: "veth2", mtu: 1400, kind: "veth", master: "br0"})
		}, Finding{Warn, "mtu", "veth2", "has MTU 1400, the other ports of bridge br0 1500", "ip link set dev veth2 mtu 1500", false}},
		{"tap too small", drFile, device("tap0", func(l *link) { l.mtu = 1400 }), Finding{Warn, "mtu", "tap0", "has MTU 1400, the other ports of bridge br0 1500", fmt.Sprintf(mtuFix, 1500, "tap0"), false}},
		{"halves of a switch", switchFile, device("eth1", func(l *link) { l.mtu = 1400 }), Finding{Warn, "mtu", "eth1", "has MTU 1400, and eth0 of the same segment 1500", "ip link set dev eth1 mtu 1500", false}},

		{"segmented", natFile, func(f *facts) { f.status.Ports[0].Segmented = 4 }, Finding{Warn, "offload", "tunlb0", "tunlb has cut 4", "write `offload: tcp` for port tunlb0 into tunlb.yaml" + anew, false}},
		{"LRO", switchFile, device("eth1", func(l *link) { l.lro = true }), Finding{Fail, "offload", "eth1", "large receive offload is on", "ethtool -K eth1 lro off", false}},
		{"no transmit offload", drFile, device("veth1", func(l *link) { l.txOff = true }), Finding{Note, "offload", "veth1", "transmit offload is off", "ethtool -K veth1 tx on tso on gso on", false}},

		{"forward policy", natFile, func(f *facts) {
			f.box().chains = []chain{{family: "ip", table: "filter", name: "FORWARD", hook: "forward", drop: true}}
		}, Finding{Fail, "netfilter", "ip filter FORWARD", "drops clients' requests from eth0 to tunlb0: its policy, and no rule accepts them", "nft 'insert rule ip filter FORWARD iifname tunlb0 accept; insert rule ip filter FORWARD oifname tunlb0 accept'", false}},
		{"bridge filter, no rules", drFile, set("bridge/bridge-nf-call-iptables", "1"), Finding{Note, "netfilter", "br0", "no rules are loaded", "sysctl -w net.bridge.bridge-nf-call-iptables=0", false}},
		{"bridge filter, IPv6", drFile, set("bridge/bridge-nf-call-ip6tables", "1"), Finding{Note, "netfilter", "br0", "no rules are loaded", "sysctl -w net.bridge.bridge-nf-call-ip6tables=0", false}},
		{"bridge filter, both", drFile, edits(set("bridge/bridge-nf-call-iptables", "1"), set("bridge/bridge-nf-call-ip6tables", "1"), func(f *facts) {
			f.box().chains = []chain{{family: "ip6", table: "t", name: "c", hook: "forward", drop: false}}
		}),
			Finding{Warn, "netfilter", "br0", "go through ip6 t c", "sysctl -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0", false}},
		{"bridge filter, one for all and one its own", drFile, edits(set("bridge/bridge-nf-call-iptables", "1"), device("br0", func(l *link) { l.nfCall = map[int]bool{6: true} })),
			Finding{Note, "netfilter", "br0", "no rules are loaded", "sysctl -w net.bridge.bridge-nf-call-iptables=0 && ip link set dev br0 type bridge nf_call_ip6tables 0", false}},
		{"drop by a rule", natFile, filter("inet t c", false, filterRule{conditions: []condition{{what: "oif", names: []string{"eth1"}}}, verdict: "drop"}), Finding{Fail, "netfilter", "inet t c", "drops requests to servers from tunlb0 to eth1: a rule of it does", "nft 'insert rule inet t c iifname tunlb0 accept; insert rule inet t c oifname tunlb0 accept'", false}},
		{"policy, who knows what is accepted", natFile, filter("inet t c", true, filterRule{conditions: []condition{{}}, verdict: "accept"}), Finding{Note, "netfilter", "inet t c", "drops clients' requests from eth0 to tunlb0: its policy, if no rule", "nft 'insert rule inet t c iifname tunlb0 accept; insert rule inet t c oifname tunlb0 accept'", false}},
		{"Docker", natFile, func(f *facts) {
			only := func(what, device, verdict string) filterRule {
				return filterRule{conditions: []condition{{what: what, names: []string{device}}}, verdict: verdict, xtables: true}
			}
			f.box().chains = []chain{
				{family: "ip", table: "filter", name: "FORWARD", hook: "forward", drop: true, rules: []filterRule{{verdict: "jump", target: "DOCKER-USER", xtables: true}, {verdict: "jump", target: "DOCKER-FORWARD"}}},
				{family: "ip", table: "filter", name: "DOCKER-USER"},
				{family: "ip", table: "filter", name: "DOCKER-FORWARD", rules: []filterRule{only("iif", "docker0", "accept"), only("oif", "docker0", "drop")}},
			}
		}, Finding{Fail, "netfilter", "ip filter FORWARD", "its policy, and no rule accepts them", "iptables -I DOCKER-USER -i tunlb0 -j ACCEPT && iptables -I DOCKER-USER -o tunlb0 -j ACCEPT", false}},
		{"iptables of IPv6", natFile, func(f *facts) {
			f.box().chains = []chain{{family: "ip6", table: "filter", name: "FORWARD", hook: "forward", drop: true, rules: []filterRule{{conditions: []condition{{what: "state", states: stateInvalid}}, verdict: "accept", xtables: true}}}}
		}, Finding{Fail, "netfilter", "ip6 filter FORWARD", "its policy, and no rule accepts them", "ip6tables -I FORWARD -i tunlb0 -j ACCEPT && ip6tables -I FORWARD -o tunlb0 -j ACCEPT", false}},
		{"a filter of the way back", natFile, func(f *facts) {
			f.box().chains = []chain{{family: "inet", table: "t", name: "pre", hook: "prerouting", rules: []filterRule{{conditions: []condition{{what: "rpf"}}, verdict: "drop"}}}}
		}, Finding{Fail, "netfilter", "inet t pre", "a reverse path filter, since their sources are not behind tunlb0", "nft 'insert rule inet t pre iifname tunlb0 accept'", false}},
		{"strays, directly routed", wideFile, filter("inet t c", false, filterRule{conditions: []condition{{what: "state", states: stateInvalid}}, verdict: "drop"}), Finding{Fail, "netfilter", "inet t c", "drops all but the first packet of directly routed connections", "nft 'insert rule inet t c iifname tunlb0 accept; insert rule inet t c oifname tunlb0 accept'", false}},
		{"older iptables", natFile, func(f *facts) {
			f.box().chains = []chain{{family: "ip6", table: "filter", hook: "forward", legacy: true}}
		}, Finding{Note, "netfilter", "ip6 filter", "whose rules are not looked into", "ip6tables-legacy -S -t filter", false}},
		{"conntrack full", natFile, edits(set("netfilter/nf_conntrack_max", "1000"), set("netfilter/nf_conntrack_count", "900")), Finding{Warn, "netfilter", "conntrack", "tracks 900 connections of 1000", "sysctl -w net.netfilter.nf_conntrack_max=2000", false}},

		{"no user namespaces", natFile, edits(unprivileged, func(f *facts) { f.userns = userNamespaces{made: syscall.ENOSPC, most: "0"} }), Finding{Warn, "userns", "user namespaces", "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=15000", false}},
		{"no user namespaces, says root", natFile, func(f *facts) { f.userns = userNamespaces{made: syscall.ENOSPC, most: "0", root: true} }, Finding{Note, "userns", "user namespaces", "ordinary users' demo", "sysctl -w user.max_user_namespaces=15000", false}},
		{"too many user namespaces", natFile, edits(unprivileged, func(f *facts) { f.userns = userNamespaces{made: syscall.ENOSPC, most: "7"} }), Finding{Warn, "userns", "user namespaces", "as many as may be", "sysctl -w user.max_user_namespaces=15000", false}},
		{"user namespaces of Debian", natFile, edits(unprivileged, func(f *facts) { f.userns = userNamespaces{made: syscall.EPERM, clone: "0"} }), Finding{Warn, "userns", "user namespaces", "only root can make them", "sysctl -w kernel.unprivileged_userns_clone=1", false}},
		{"user namespaces of Ubuntu", natFile, edits(unprivileged, func(f *facts) { f.userns = userNamespaces{able: syscall.EPERM, restricted: "1"} }), Finding{Warn, "userns", "user namespaces", "AppArmor denies all privileges", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0", false}},
		{"user namespaces of Ubuntu, says root", natFile, func(f *facts) { f.userns = userNamespaces{root: true, restricted: "1"} }, Finding{Note, "userns", "user namespaces", "AppArmor denies all privileges", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0", false}},
		{"user namespaces in a container", natFile, edits(unprivileged, func(f *facts) { f.userns.made = syscall.EPERM }), Finding{Warn, "userns", "user namespaces", "cannot be made", "tunlb demo  # falls back to a simulated network", false}},
		{"user namespaces without power", natFile, edits(unprivileged, func(f *facts) { f.userns.able = syscall.EPERM }), Finding{Warn, "userns", "user namespaces", "have no privileges", "tunlb demo  # falls back to a simulated network", false}},

		{"own pings kept out", natFile, edits(has("203.0.113.22/32", "eth0"), set("ipv4/conf/tunlb0/accept_local", "0")), Finding{Warn, "accept_local", "tunlb0", "own pings of 203.0.113.22", "sysctl -w net.ipv4.conf.tunlb0.accept_local=1", false}},
		{"clients on the servers' link", natFile, func(f *facts) {
			f.ingress = append(f.ingress, ingress{"eth1", netip.MustParseAddr("192.168.0.7"), true})
		}, Finding{Note, "translation", "eth1", "tunlb translates their source as well, so web/rs1 sees", "", false}},
		{"translated sources", natFile, func(f *facts) {
			f.conns = []tunlb.Conn{{Service: "web", ServerName: "rs1", Source: netip.MustParseAddrPort("192.168.0.100:1"), OutBytes: 1}}
		}, Finding{Note, "translation", "sources", "1 connection now with a translated source", "", false}},
		{"the gateway's ports", gatewayFile, edits(has("198.51.100.9/32", "lo"), set("ipv4/ip_local_port_range", "32768\t60999")), Finding{Warn, "local_ports", "198.51.100.9", "has its ports 50000-61000", "sysctl -w net.ipv4.ip_local_port_range='32768 49999'", false}},
		{"interface listed", boxFile, func(*facts) {}, Finding{OK, "interface", "eth0, eth1", "tunlb takes what is for services, and the kernel none of it", "", false}},
		{"interface, before the start", boxFile, stopped, Finding{OK, "interface", "eth0, eth1", "can be taken from", "", false}},
		{"kernel that can't be kept from it", boxFile, edits(stopped, func(f *facts) { f.filter.guardErr = syscall.EOPNOTSUPP }), Finding{Fail, "interface", "packet filter", "cannot keep the kernel from handling what tunlb takes: operation not supported",
			"write {name: tunlb0, type: tun, addresses: [10.255.0.1/30]} in place of the packet ports into tunlb.yaml, then: tunlb check tunlb.yaml", false}},
		{"kernel not kept from it", boxFile, func(f *facts) { f.box().guarded["eth1"] = false }, Finding{Fail, "interface", "eth1", "the kernel handles what tunlb takes here as well", "kill 7 && tunlb run -f tunlb.yaml", false}},
		{"servers behind another interface", boxFile, func(f *facts) {
			f.box().links = append(f.box().links, link{name: "eth2", ethernet: true, up: true, carrier: true, mtu: 1500})
			f.servers[1].route.device = "eth2"
		}, Finding{Fail, "interface", "eth2", "the way to web6/rs1 leads by it", "write {name: eth2, type: packet} as a further port into tunlb.yaml" + anew, false}},
		{"clients behind another interface", boxFile, func(f *facts) {
			f.box().links = append(f.box().links, link{name: "eth2", ethernet: true, up: true, carrier: true, mtu: 1500})
			f.ingress[1].device = "eth2"
		}, Finding{Fail, "interface", "eth2", "the way to the client 2001:db8:1::7 leads by it", "write {name: eth2, type: packet} as a further port into tunlb.yaml" + anew, false}},
		{"interface of a bridge", boxFile, device("eth1", func(l *link) { l.master = "br0" }), Finding{Fail, "interface", "eth1", "is a part of br0", "write `name: br0` for port eth1 into tunlb.yaml" + anew, false}},
		{"clients beside the servers, and the box's VIP", boxFile, edits(has("203.0.113.22/32", "eth0"), func(f *facts) {
			f.ingress = append(f.ingress, ingress{"eth1", netip.MustParseAddr("192.168.0.7"), true})
		}), Finding{Warn, "interface", "web/rs1", "the client 192.168.0.7 is on the server's own link", "write {name: tunlb1, type: tun, addresses: [10.255.0.1/30]} as a further port into tunlb.yaml" + anew, false}},
		{"packets one by one", boxFile, device("eth0", func(l *link) { l.groOff = true }), Finding{Note, "interface", "eth0", "generic receive offload is off", "ethtool -K eth0 gro on", false}},
		{"large receive offload of the box's", boxFile, device("eth0", func(l *link) { l.lro = true }), Finding{Fail, "offload", "eth0", "large receive offload is on", "ethtool -K eth0 lro off", false}},
		{"interface of the box down", boxFile, device("eth1", func(l *link) { l.up = false }), Finding{Fail, "port", "eth1", "is down", "ip link set dev eth1 up", false}},
		{"frames lost", boxFile, func(f *facts) { f.status.Ports[1].Overruns = 9 }, Finding{Warn, "overrun", "eth1", "9 frames lost",
			"tunlb top  # shows how busy its lane is; if it is not: sysctl -w net.core.rmem_max=67108864, and start tunlb anew", false}},
		{"frames lost on a segment", oneArmFile, func(f *facts) { f.status.Ports[0].Overruns = 1 }, Finding{Warn, "overrun", "eth0", "1 frame lost",
			"tunlb top  # shows how busy its lane is; if it is not: sysctl -w net.core.rmem_max=67108864, and start tunlb anew", false}},
		{"server of the box's interfaces silent", boxFile, func(f *facts) { f.servers[0].state = "failed" }, Finding{Fail, "neighbour", "web/rs1", "192.168.0.10 does not answer ARP on eth1", "ip addr show to 192.168.0.10  # on rs1: its interface has to be up and have the address", false}},
		{"fast path", fastFile, stopped, Finding{OK, "fastpath", "packet filter", "can carry connections", "", false}},
		{"no fast path", fastFile, edits(stopped, func(f *facts) { f.filter.carrierErr = syscall.EOPNOTSUPP }), Finding{Fail, "fastpath", "packet filter", "cannot carry connections: operation not supported",
			"write fastpath: user into tunlb.yaml, then: tunlb check tunlb.yaml", false}},
		{"metrics gone", metricsFile, func(f *facts) { f.metrics = endpoint{true, syscall.ECONNREFUSED} }, Finding{Warn, "metrics", "127.0.0.1:80", "are not to be had here: connection refused", "tunlb reload", false}},
		{"metrics taken", metricsFile, edits(stopped, func(f *facts) { f.metrics = endpoint{true, syscall.EADDRINUSE} }), Finding{Fail, "metrics", "127.0.0.1:80", "is taken by another program", "ss -ltnp 'sport = :80'  # shows the program to stop", false}},
		{"metrics forbidden", metricsFile, edits(stopped, func(f *facts) { f.metrics = endpoint{true, syscall.EACCES} }), Finding{Fail, "metrics", "127.0.0.1:80", "ports below 1024", "sysctl -w net.ipv4.ip_unprivileged_port_start=80", false}},
		{"metrics nowhere", metricsFile, edits(stopped, func(f *facts) { f.metrics = endpoint{true, syscall.EADDRNOTAVAIL} }), Finding{Fail, "metrics", "127.0.0.1:80", "cannot be listened on", "write another address for metrics: {listen: ...} into tunlb.yaml, then: tunlb check tunlb.yaml", false}},
		{"TUN without super-packets", natFile, device("tunlb0", func(l *link) { l.tsoOff = true }), Finding{Warn, "offload", "tunlb0", "takes no super-packets any more", "ethtool -K tunlb0 tx on tso on", false}},
		{"kernel that spoils UDP", natFile, edits(device("eth1", func(l *link) { l.uso = true }), func(f *facts) { f.kernel = "7.1.0-rc3" }), Finding{Note, "offload", "eth1", "Linux 7.1.0-rc3 spoils", "ethtool -K eth1 tx-udp-segmentation off", false}},
		{"bridge filter of its own", drFile, edits(device("br0", func(l *link) { l.nfCall = map[int]bool{4: true} }), func(f *facts) {
			f.box().chains = []chain{{family: "inet", table: "t", name: "c", hook: "forward", drop: false}}
		}), Finding{Warn, "netfilter", "br0", "go through inet t c", "ip link set dev br0 type bridge nf_call_iptables 0", false}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := healthy(t, test.file)
			test.spoil(f)
			var others []Finding
			found := false
			for _, got := range f.judge().Findings {
				want := test.want
				if strings.Contains(got.Text, want.Text) {
					want.Text = got.Text
				}
				switch {
				case got == want:
					found = true
				case got.Severity == Warn || got.Severity == Fail || got.Check == want.Check && got.Severity == want.Severity:
					others = append(others, got)
				}
			}
			if !found {
				t.Errorf("want %+v, got %+v", test.want, others)
			}
			for _, got := range others {
				if got.Severity == Fail && found {
					t.Errorf("besides: %+v", got)
				}
			}
		})
	}
}

// traffic sets what a service's first server has got and answered.
func traffic(service int, in, out uint64) func(*facts) {
	return func(f *facts) {
		f.status.Services[service].Servers[0].Traffic = tunlb.Traffic{Conns: 1, InPackets: in, OutPackets: out}
	}
}

// has puts an address on a device of the box.
func has(prefix, device string) func(*facts) {
	return func(f *facts) {
		f.box().addresses = append(f.box().addresses, address{netip.MustParsePrefix(prefix), device})
	}
}

// conns are connections that have waited for their second packet.
func conns(service, server string, states ...string) func(*facts) {
	return func(f *facts) {
		for _, state := range states {
			f.conns = append(f.conns, tunlb.Conn{Service: service, Protocol: "tcp", Server: netip.MustParseAddrPort(server), State: state, InBytes: 120})
		}
	}
}

func segment(s tunlb.SegmentStatus) func(*facts) {
	return func(f *facts) { f.status.Segments = []tunlb.SegmentStatus{s} }
}

// TestQuiet: what looks like trouble and is none.
func TestQuiet(t *testing.T) {
	for _, test := range []struct {
		name, file string
		spoil      func(*facts)
	}{
		{"strict, but loose by all", natFile, edits(set("ipv4/conf/all/rp_filter", "2"), set("ipv4/conf/tunlb0/rp_filter", "1"))},
		{"strict towards clients, nothing dropped", natFile, set("ipv4/conf/eth0/rp_filter", "1")},
		{"dropped of old, no longer strict", natFile, func(f *facts) { f.box().filtered = 3 }},
		{"own VIP, but quiet", drFile, edits(set("ipv4/conf/all/arp_ignore", "1"), func(f *facts) {
			f.box().addresses = append(f.box().addresses, address{netip.MustParsePrefix("203.0.113.22/32"), "lo"})
		})},
		{"own VIP on lo, IPv6", drFile, func(f *facts) {
			f.box().addresses = append(f.box().addresses, address{netip.MustParsePrefix("2001:db8:113::22/128"), "lo"})
		}},
		{"VIP on link, answered by proxy", natFile, edits(set("ipv4/conf/eth0/proxy_arp", "1"), func(f *facts) {
			f.box().addresses[0].prefix = netip.MustParsePrefix("203.0.113.1/24")
		})},
		{"VIP on link, proxy neighbour", natFile, func(f *facts) {
			f.box().addresses[1].prefix = netip.MustParsePrefix("2001:db8:113::1/64")
			f.box().neighbours = []neighbour{{netip.MustParseAddr("2001:db8:113::22"), "eth0", "proxy"}}
		}},
		{"a first packet on its way", natFile, traffic(0, 1, 0)},
		{"one connection is slow", natFile, conns("web", "192.168.0.10:8080", "SYN_RECV")},
		{"first packets on their way", natFile, edits(conns("web", "192.168.0.10:8080", "SYN_RECV", "SYN_RECV"), func(f *facts) {
			for i := range f.conns {
				f.conns[i].InBytes = 80 // of IPv6, the larger one
			}
		})},
		{"offload off on request", natFile, func(f *facts) { f.config.Ports[0].Offload, f.status.Ports[0].Segmented = "off", 9 }},
		{"one direct connection came through", drFile, conns("web", "203.0.113.10:80", "SYN_RECV", "SYN_RECV", "ESTABLISHED")},
		{"own address on lo, quiet", drFile, edits(set("ipv4/conf/all/arp_ignore", "1"), has("203.0.113.2/32", "lo"), has("2001:db8:113::2/128", "lo"))},
		{"own address of another segment", natFile, has("203.0.113.2/32", "eth0")},
		{"interface of a one-arm port in a bridge", oneArmFile, device("eth0", func(l *link) { l.master = "br0" })},
		{"interface of the switch in a VRF", switchFile, edits(device("eth0", func(l *link) { l.master = "br0" }), device("br0", func(l *link) { l.kind = "vrf" }))},
		{"a loop that is mended", switchFile, segment(tunlb.SegmentStatus{Ports: []string{"eth0", "eth1"}, Loops: 7, Moves: 5000, LoopAge: time.Minute})},
		{"stations that move now and then", switchFile, segment(tunlb.SegmentStatus{Ports: []string{"eth0", "eth1"}, Moves: 1000})},
		{"bridge filter of the other family", oneFamilyFile, edits(set("bridge/bridge-nf-call-ip6tables", "1"), func(f *facts) {
			f.box().chains = []chain{{family: "ip6", table: "t", name: "c", hook: "forward", drop: false}}
		})},
		{"bridge filter without rules of the family", oneFamilyFile, edits(set("bridge/bridge-nf-call-iptables", "1"), func(f *facts) {
			f.box().chains = []chain{{family: "ip6", table: "t", name: "c", hook: "forward", drop: false}}
		})},
		{"several VIPs, ranges, modes", wideFile, func(*facts) {}},
		{"refused on one of many ports", wideFile, func(f *facts) {
			for i := range f.servers {
				f.servers[i].dialErr = syscall.ECONNREFUSED
			}
		}},
		{"no answer from a directly routed server", wideFile, func(f *facts) { f.status.Services[2].Servers[1].Traffic = tunlb.Traffic{InPackets: 9} }},
		{"nor from one of UDP", wideFile, func(f *facts) { f.status.Services[0].Servers[1].Traffic = tunlb.Traffic{InPackets: 9} }},
		{"VIP of the box, and no direct server on the segment", wideFile, has("203.0.113.24/32", "lo")},
		{"a server that is down by its health", natFile, func(f *facts) { f.status.Services[0].Servers[0].Weight = 0 }},
		{"a filter that accepts by state and device", natFile, filter("inet t c", true,
			filterRule{conditions: []condition{{what: "state", states: stateEstablished}}, verdict: "accept"},
			filterRule{conditions: []condition{{what: "iif", names: []string{"tun*"}}}, verdict: "accept"},
			filterRule{conditions: []condition{{what: "oif", names: []string{"eth9", "tunlb0"}}}, verdict: "accept"})},
		{"a filter of the other family", oneFamilyFile, filter("ip6 t c", true)},
		{"strays, translated", natFile, filter("inet t c", false, filterRule{conditions: []condition{{what: "state", states: stateInvalid}}, verdict: "drop"})},
		{"conntrack with room", natFile, edits(set("netfilter/nf_conntrack_max", "1000"), set("netfilter/nf_conntrack_count", "899"))},
		{"kernel that is mended", natFile, edits(device("eth1", func(l *link) { l.uso = true }), func(f *facts) { f.kernel = "7.1.5" })},
		{"accept_local is 0, VIP of another box", natFile, set("ipv4/conf/tunlb0/accept_local", "0")},
		{"accept_local is 0, own VIP of IPv6", natFile, edits(has("2001:db8:113::22/128", "eth0"), set("ipv4/conf/tunlb0/accept_local", "0"))},
		{"the gateway's ports, not the box's address", gatewayFile, set("ipv4/ip_local_port_range", "32768 60999")},
		{"the gateway's ports, apart", gatewayFile, edits(has("198.51.100.9/32", "lo"), set("ipv4/ip_local_port_range", "32768 49999"))},
		{"a VRF's interface of the box", boxFile, edits(device("eth0", func(l *link) { l.master = "br0" }), device("br0", func(l *link) { l.kind = "vrf" }))},
		{"clients beside the servers", boxFile, func(f *facts) {
			f.ingress = append(f.ingress, ingress{"eth1", netip.MustParseAddr("192.168.0.7"), true})
		}},
		{"no rules and no forwarding for the box's interfaces", boxFile, edits(set("ipv4/ip_forward", "0"), set("ipv4/conf/eth0/rp_filter", "1"), filter("inet t c", true))},
		{"offload off, but of a virtual interface", boxFile, device("eth0", func(l *link) { l.groOff, l.kind = true, "veth" })},
		{"a larger TUN", natFile, device("tunlb0", func(l *link) { l.mtu = 9000 })},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := healthy(t, test.file)
			test.spoil(f)
			for _, got := range f.judge().Findings {
				if got.Severity == Warn || got.Severity == Fail {
					t.Errorf("%+v", got)
				}
			}
		})
	}
}
