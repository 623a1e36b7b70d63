package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tunlb/tunlb/policy"
	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/control"
)

// facts are all that checks go by.
type facts struct {
	Options
	file    string         // what is examined; "" is nothing but the machine
	fileErr error          // of the daemon's file: it has changed since, or cannot be read from here
	config  *config.Config // nil if there is none

	status    *control.Status // nil if no daemon answers
	statusErr error           // nil iff status is not
	conns     []tunlb.Conn    // some of them, if there are many

	tun     tunDevice
	caps    capabilities
	userns  userNamespaces
	kernel  string // its version, as uname -r has it
	metrics endpoint
	filter  packetFilter      // valid iff no daemon runs
	spaces  map[string]*space // by path; "" is the caller's, always there
	ingress []ingress         // where requests come into the box
	entries []entry           // where the kernel sends them
	servers []server          // those of nat services that the box routes to
}

// tunDevice is /dev/net/tun.
type tunDevice struct {
	err    error // of opening it
	driver bool  // the kernel has it
}

// capabilities are what this process may do in its network namespace: nil, or why not.
type capabilities struct {
	admin, raw error
	userns     bool // it is in a user namespace
}

// space is a network namespace.
type space struct {
	path       string
	err        error // it cannot be looked into; then the rest is not valid
	links      []link
	addresses  []address
	rules      []rule
	neighbours []neighbour
	sysctls    map[string]string // by path below /proc/sys/net
	filtered   uint64            // packets that the reverse path filter has dropped, ever
	chains     []chain
	guarded    map[string]bool // devices where a table of tunlb's keeps packets from the kernel
}

type link struct {
	name, kind  string // kind is "" for hardware
	index, mtu  int
	master      string // the bridge that it is in
	up, carrier bool
	ethernet    bool
	loopback    bool
	tap         bool // valid iff the kind is tun
	txOff       bool // checksums are made by the processor
	tsoOff      bool // TCP super-packets are cut before they get to the device
	uso         bool // UDP super-packets are left to the device
	lro         bool
	groOff      bool         // packets are not put together before they get to anybody
	parent      string       // what a VLAN's device is on
	nfCall      map[int]bool // by family; nil iff the kind is not bridge
}

type address struct {
	prefix netip.Prefix
	device string
}

type rule struct {
	family int // 4 or 6
	pref   int
	ours   bool
	local  bool   // a lookup of the local table for all packets
	iif    string // "" is any
	text   string // as `ip rule add` takes it
	plain  bool   // text says all of it
	covers func(q question) bool
}

type neighbour struct {
	addr   netip.Addr
	device string
	state  string // reachable, stale, incomplete, failed, ...
}

// question is what the kernel was asked: where would such a packet go?
type question struct {
	from, to     netip.Addr
	iif          string // "" is the box itself
	proto        uint8
	sport, dport uint16
}

// answer is where a packet would go.
type answer struct {
	err     error
	device  string
	gateway netip.Addr // not valid on a link
	source  netip.Addr // the box's own on that link
	local   bool       // to the box
}

// ingress is a way for requests into the box.
type ingress struct {
	device string
	from   netip.Addr // somebody there
	real   bool       // a client that is known to be there
}

// entry is where the kernel sends requests to a service.
type entry struct {
	service string
	question
	answer
}

// server is a real server that the box itself has a route to.
type server struct {
	service, name string
	addr          netip.AddrPort
	proto         uint8
	anyPort       bool   // its port is the one that the client asks for: nobody knows which of them it serves
	direct        bool   // it is routed directly: tunlb writes to it past the TUN, and its answers do not come here
	route         answer // of what the box sends
	written       answer // of what tunlb writes; valid iff the daemon runs
	reply         entry  // of the server's answers; valid iff the daemon runs
	replied       bool   // reply is valid
	hidden        bool   // the answers to the box's own connections take another way than to the box
	dialed        bool
	dialErr       error
	state         string // of the neighbour on the way; "" is not known
}

func (s server) String() string { return s.service + "/" + s.name }

// nextHop is the neighbour on the way to the server.
func (s server) nextHop() netip.Addr {
	if s.route.gateway.IsValid() {
		return s.route.gateway
	}
	return s.addr.Addr()
}

// down says that the neighbour on the way is known to be silent.
func (s server) down() bool { return silent(s.state) }

func silent(state string) bool { return state == "failed" || state == "incomplete" }

// Bounds of what is asked; a machine with more services has the same troubles with all of them.
const (
	askPatience  = time.Second
	dialPatience = 800 * time.Millisecond
	maxConns     = 10_000
	maxAsked     = 64
	maxIngress   = 8
)

var errEnough = errors.New("enough")

// listConns takes what it can get.
func (f *facts) listConns(ctx context.Context) {
	_ = f.Client.Conns(ctx, tunlb.ConnFilter{}, maxConns, func(c control.Conn) error {
		if len(f.conns) == maxConns {
			return errEnough
		}
		f.conns = append(f.conns, c.Conn)
		return nil
	})
}

// running says whether a daemon answers.
func (f *facts) running() bool { return f.status != nil }

// watched says that a daemon answers and that none of its devices is missing, so that what it has not told of has not
// happened.
func (f *facts) watched() bool {
	return f.running() && !slices.ContainsFunc(f.ports(), func(p config.Port) bool {
		s := f.spaces[p.NetNS]
		return s == nil || s.err != nil || s.link(p.Name) == nil
	})
}

// box is the caller's own namespace.
func (f *facts) box() *space {
	if s := f.spaces[""]; s != nil {
		return s
	}
	return &space{}
}

func (f *facts) ports() []config.Port {
	if f.config == nil {
		return nil
	}
	return f.config.Ports
}

func (f *facts) services() []policy.Spec {
	if f.config == nil {
		return nil
	}
	return f.config.Services
}

// boxTUN is the TUN by which the box's own kernel leads packets to tunlb; nil if there is none.
func (f *facts) boxTUN() *config.Port {
	for i, p := range f.ports() {
		if p.Type == config.TUN && p.NetNS == "" {
			return &f.config.Ports[i]
		}
	}
	return nil
}

// routed are the services whose packets the box's kernel leads to the TUN.
func (f *facts) routed() (list []policy.Spec) {
	if f.boxTUN() == nil {
		return nil
	}
	for _, s := range f.services() {
		if !slices.ContainsFunc(s.Servers, func(srv policy.ServerSpec) bool { return f.segmentOwn(srv.Address.Addr()).IsValid() }) {
			list = append(list, s)
		}
	}
	return list
}

// vips are the addresses on which services listen.
func vips(services []policy.Spec) (list []netip.Addr) {
	seen := map[netip.Addr]bool{}
	for _, s := range services {
		for _, l := range s.Listen {
			if !seen[l.Addr] {
				seen[l.Addr] = true
				list = append(list, l.Addr)
			}
		}
	}
	return list
}

// somewhere is a place to ask a service at: of TCP if it has one, and of all ports any.
func somewhere(s policy.Spec) policy.Listen {
	l := s.Listen[0]
	if i := slices.IndexFunc(s.Listen, func(l policy.Listen) bool { return l.Proto == policy.TCP }); i >= 0 {
		l = s.Listen[i]
	}
	if l.All() {
		l.First, l.Last = 1, 1
	}
	return l
}

// segmentOwn is tunlb's own address on the segment that an address is on; not valid if it is on none.
func (f *facts) segmentOwn(a netip.Addr) netip.Addr {
	for _, p := range f.ports() {
		for _, own := range p.Own {
			if own.Contains(a) {
				return own.Addr()
			}
		}
	}
	return netip.Addr{}
}

// families are those of the routed services: 4, 6 or both.
func (f *facts) families() []int { return familiesOf(f.routed()) }

func familiesOf(services []policy.Spec) (list []int) {
	for _, s := range services {
		if n := family(s.Listen[0].Addr); !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

// ip is the command for a family.
func ip(family int) string {
	if family == 6 {
		return "ip -6"
	}
	return "ip"
}

// sides are the devices of the box by which routed packets come and go, without the TUN.
func (f *facts) sides() (devices []string) {
	add := func(device string) {
		if tun := f.boxTUN(); device != "" && (tun == nil || device != tun.Name) && !slices.Contains(devices, device) {
			devices = append(devices, device)
		}
	}
	for _, i := range f.ingress {
		add(i.device)
	}
	for _, s := range f.servers {
		add(s.route.device)
	}
	return devices
}

func (s *space) link(name string) *link {
	for i := range s.links {
		if s.links[i].name == name {
			return &s.links[i]
		}
	}
	return nil
}

// owner is a device that has an address, "" if the namespace does not have it.
func (s *space) owner(a netip.Addr) string {
	for _, have := range s.addresses {
		if have.prefix.Addr() == a {
			return have.device
		}
	}
	return ""
}

func (s *space) hasAddress(device string) bool {
	return slices.ContainsFunc(s.addresses, func(a address) bool { return a.device == device && !a.prefix.Addr().IsLinkLocalUnicast() })
}

// number reads a setting; those that the kernel lacks are 0.
func (s *space) number(path string) int {
	n, _ := strconv.Atoi(s.sysctls[path])
	return n
}

// effective is a setting of a device where the larger of it and that of all counts.
func (s *space) effective(device, name string) int {
	return max(s.number("ipv4/conf/all/"+name), s.number("ipv4/conf/"+device+"/"+name))
}

// sysctl is the command that writes a setting.
func sysctl(path string, value int) string { return "sysctl -w " + assignment(path, value) }

func assignment(path string, value int) string {
	if strings.Contains(path, ".") { // of a device such as eth0.5: slashes are taken as well
		return fmt.Sprintf("net/%s=%d", path, value)
	}
	return fmt.Sprintf("net.%s=%d", strings.ReplaceAll(path, "/", "."), value)
}

const netnsDir = "/run/netns/"

// in is the command for another namespace.
func in(path, command string) string {
	if path == "" {
		return command
	}
	if strings.Contains(command, "&&") {
		command = "sh -c " + quote(command)
	}
	if name, ok := strings.CutPrefix(path, netnsDir); ok {
		return fmt.Sprintf("ip netns exec %s %s", name, command)
	}
	return fmt.Sprintf("nsenter --net=%s %s", quote(path), command)
}

// quote makes one word of s for the shell.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-+:,@%=", r))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// at is a subject in a namespace.
func at(path, what string) string {
	if path == "" {
		return what
	}
	return what + " in " + strings.TrimPrefix(path, netnsDir)
}

// count is a number of things.
func count[N int | uint64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// restart is the command that starts the daemon anew.
func (f *facts) restart() string {
	return fmt.Sprintf("kill %d && tunlb run -f %s", f.status.Daemon.PID, f.here())
}

// restartThen is what has a changed port take effect: a reload takes none.
func (f *facts) restartThen() string {
	if !f.running() {
		return "then: tunlb check " + f.here()
	}
	return fmt.Sprintf("then start tunlb anew: tunlb check %s && %s", f.here(), f.restart())
}

// edit is a fix by hand: what to write for a port, and the command that has it take effect.
func (f *facts) edit(p config.Port, format string, args ...any) string {
	return fmt.Sprintf("write %s for port %s into %s, %s", fmt.Sprintf(format, args...), p.Name, f.here(), f.restartThen())
}

// maxNamed is how many devices are named: a host of containers has hundreds.
const maxNamed = 8

// choose is the edit that takes one of the devices that there are.
func (f *facts) choose(p config.Port, what string, names []string) string {
	if len(names) == 0 {
		return in(p.NetNS, "ip link") + "  # there is no " + what + " that is free"
	}
	more := ""
	if len(names) > maxNamed {
		names, more = names[:maxNamed], ", ..."
	}
	return f.edit(p, "the name of a free %s (%s%s)", what, strings.Join(names, ", "), more)
}

// add is a fix by hand: a further port, and the command that has it take effect.
func (f *facts) add(name string) string {
	kind := "packet"
	if f.box().link(name) == nil {
		kind = "tun, addresses: [10.255.0.1/30]"
	}
	return fmt.Sprintf("write {name: %s, type: %s} as a further port into %s, %s", name, kind, f.here(), f.restartThen())
}

// here is f.file for a command.
func (f *facts) here() string {
	if f.file == "" {
		return "FILE"
	}
	return quote(f.file)
}
