package ipvs

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tunlb/tunlb/policy"
)

// Parse reads ipvsadm's arguments, without the program's name. None are the command to list. The error is
// always an [*Error].
func Parse(args []string, names Names) (Command, error) {
	if len(args) == 0 {
		return Command{Verb: ListTable}, nil
	}
	p := parser{names: names, scanner: scanner{args: args}}
	if err := p.verb(); err != nil {
		return Command{}, err
	}
	if p.Verb == Help || p.Verb == Version {
		return p.Command, nil // whatever else there may be
	}
	for {
		tok, err := p.next(&p.consumed)
		if err != nil {
			return Command{}, err
		}
		if tok == nil {
			break
		}
		if err := p.take(tok); err != nil {
			return Command{}, err
		}
	}
	for _, check := range []func() error{p.arguments, p.schedulerFlags, p.options, p.service, p.server, p.list} {
		if err := check(); err != nil {
			return Command{}, err
		}
	}
	return p.Command, nil
}

func usage(format string, args ...any) error {
	return &Error{fmt.Sprintf(format, args...), exitUsage}
}

// errTry is for what is not understood at all.
var errTry = &Error{"Try `ipvsadm -h' or 'ipvsadm --help' for more information.", exitFailed}

// Bounds of what ipvsadm takes.
const (
	maxTimeout     = 31 * 24 * 60 * 60 // seconds
	defaultPersist = 360               // seconds
	nameLimit      = 15                // of schedulers and interfaces: the rest is cut off
)

type parser struct {
	Command
	scanner
	names    Names
	seen     optionSet
	consumed string // the last argument that was looked at
	flags    string // of the scheduler, which may come later
	mask     uint32 // of IPv4
}

// verb takes the first option, which must be one.
func (p *parser) verb() error {
	tok, err := p.next(&p.consumed)
	if err != nil || tok == nil || tok.opt != optCommand {
		return errTry
	}
	p.Verb = tok.verb
	switch p.Verb {
	case AddService, EditService:
		p.Scheduler = "wlc"
	case AddServer, EditServer:
		p.Server.Weight, p.Server.Mode = 1, policy.DR
	case StartDaemon, StopDaemon:
		p.Daemon.Role = tok.text
		if tok.text == Master || tok.text == Backup {
			break
		}
		if p.Verb == StartDaemon {
			return usage("illegal start-daemon parameter specified")
		}
		return usage("illegal start_daemon specified")
	}
	if p.Verb == StartDaemon {
		p.Daemon.Interface = "eth0"
	}
	return nil
}

// take applies one option. Their order matters in places: a server is read after its service.
func (p *parser) take(tok *token) (err error) {
	switch tok.opt {
	case optCommand:
		return usage("invalid option `%s'", p.consumed)
	case optSort:
		return nil
	case optIPv6:
		if p.Service.Mark.Value == 0 {
			return usage("-6 used before -f")
		}
		p.Service.Mark.IPv6, p.Persistence.HostBits = true, 0 // a mask before it was one for IPv4
		return nil
	}
	if p.seen.has(tok.opt) {
		return usage("multiple '%s' options specified", optionNames[tok.opt])
	}
	p.seen |= 1 << tok.opt
	if tok.takes != nothing {
		return p.takeValue(tok)
	}
	switch tok.opt {
	case optForward:
		p.Server.Mode = map[byte]policy.Mode{'g': policy.DR, 'i': policy.Tunnelled, 'm': policy.NAT}[tok.short]
	case optOnePacket:
		p.OnePacket = true
	case optTunNoCsum, optTunCsum, optTunRemCsum:
		p.Server.Tunnel.Checksum = strings.TrimPrefix(optionNames[tok.opt], "tun-")
	case optNumeric:
		p.Options.Numeric = true
	case optConnection:
		p.Options.Connections = true
	case optTimeout:
		p.Options.Timeouts = true
	case optDaemon:
		p.Options.Daemons = true
	case optStats:
		p.Options.Stats = true
	case optRate:
		p.Options.Rates = true
	case optThresholds:
		p.Options.Thresholds = true
	case optPersistentConn:
		p.Options.Persistent = true
	case optTunnels:
		p.Options.Tunnels = true
	case optExact:
		p.Options.Exact = true
	case optNoSort:
		p.Options.Unsorted = true
	}
	return nil
}

func (p *parser) takeValue(tok *token) (err error) {
	switch tok.opt {
	case optService:
		return p.takeService(tok)
	case optServer:
		return p.takeServer(tok.text)
	case optScheduler:
		if tok.text != "" {
			p.Scheduler = cut(tok.text)
		}
	case optPersistent:
		seconds := defaultPersist
		if tok.given {
			if seconds, err = timeout(tok.text, 1); err != nil {
				return err
			}
		}
		p.Persistence.Timeout = time.Duration(seconds) * time.Second
	case optNetmask:
		return p.takeMask(tok.text)
	case optEngine:
		p.Persistence.Engine = tok.text
	case optFlags:
		p.flags = tok.text
	case optWeight:
		return within(tok.text, "weight", 0, policy.MaxWeight, &p.Server.Weight)
	case optUpper:
		return within(tok.text, "u_threshold", 0, math.MaxInt32, &p.Server.Upper)
	case optLower:
		return within(tok.text, "l_threshold", 0, math.MaxInt32, &p.Server.Lower)
	case optTunType:
		if !slices.Contains([]string{"ipip", "gue", "gre"}, tok.text) {
			return usage("illegal tunnel type specified")
		}
		p.Server.Tunnel.Type = tok.text
	case optTunPort:
		return within(tok.text, "tunnel port", 1, math.MaxUint16, &p.Server.Tunnel.Port)
	case optInterface:
		p.Daemon.Interface = cut(tok.text)
	case optSyncID:
		return within(tok.text, "syncid", 0, 255, &p.Daemon.SyncID)
	case optMaxLen:
		return within(tok.text, "sync-maxlen", 1, math.MaxUint16, &p.Daemon.MaxLen)
	case optPort:
		return within(tok.text, "mcast-port", 1, math.MaxUint16, &p.Daemon.Port)
	case optTTL:
		return within(tok.text, "mcast-ttl", 1, 255, &p.Daemon.TTL)
	case optGroup:
		return p.takeGroup(tok.text)
	}
	return nil
}

func cut(name string) string { return name[:min(len(name), nameLimit)] }

func timeout(s string, least int64) (int, error) {
	n, ok := number(s, least, maxTimeout)
	if !ok {
		return 0, usage("invalid timeout value `%s' specified", s)
	}
	return int(n), nil
}

func within[T int | uint16](s, what string, least, most int64, to *T) error {
	n, ok := number(s, least, most)
	if !ok {
		return usage("illegal %s specified", what)
	}
	*to = T(n)
	return nil
}

func (p *parser) takeService(tok *token) error {
	proto, isMark := map[string]uint8{"tcp-service": policy.TCP, "udp-service": policy.UDP, "sctp-service": policy.SCTP}[tok.long]
	if !isMark {
		mark, ok := number(tok.text, 1, math.MaxUint32)
		if !ok {
			return usage("invalid fwmark value `%s' specified", tok.text)
		}
		p.Service.Mark.Value = uint32(mark)
		return nil
	}
	addr, port, _, ok := p.names.parsePlace(tok.text, proto)
	if !ok {
		return usage("illegal virtual server address[:port] specified")
	}
	p.Service = Service{Proto: proto, Addr: addr, Port: port}
	if addr.Is6() {
		p.Persistence.HostBits = 0 // a mask before it was one for IPv4
	}
	return nil
}

// takeMask reads a netmask: dotted for IPv4, a length for IPv6.
func (p *parser) takeMask(s string) error {
	if p.Service != (Service{}) && !p.Service.Is4() {
		length, ok := number(s, 1, 128)
		if !ok {
			return usage("illegal ipv6 netmask specified")
		}
		p.Persistence.HostBits = 128 - int(length)
		return nil
	}
	addr, ok := parse4(s)
	if !ok {
		return errMask
	}
	b := addr.As4()
	p.mask = binary.BigEndian.Uint32(b[:])
	p.Persistence.HostBits = bits.TrailingZeros32(p.mask)
	return nil
}

var errMask = &Error{"illegal virtual server persistent mask specified", exitUsage}

// takeServer reads a server. Its port is by default that of the service, if that is known already.
func (p *parser) takeServer(s string) error {
	proto := p.Service.Proto
	if p.Service.Mark.Value != 0 {
		proto = policy.TCP
	}
	addr, port, given, ok := p.names.parsePlace(s, proto)
	if !ok {
		return usage("illegal real server address[:port] specified")
	}
	if !given {
		port = p.Service.Port
	}
	p.Server.Address = netip.AddrPortFrom(addr, port)
	return nil
}

func (p *parser) takeGroup(s string) error {
	addr, err := netip.ParseAddr(s)
	switch {
	case strings.Contains(s, ":") && (err != nil || !addr.IsMulticast()):
		return usage("invalid IPv6 mcast-group `%s'", s)
	case err != nil || !addr.IsMulticast():
		return usage("invalid IPv4 mcast-group `%s'", s)
	}
	p.Daemon.Group = addr
	return nil
}

// arguments checks what was left over besides options.
func (p *parser) arguments() (err error) {
	if p.Verb == Set {
		if len(p.rest) < 3 {
			return usage("--set option requires 3 timeout values")
		}
		for i, to := range []*int{&p.Timeouts.TCP, &p.Timeouts.TCPFin, &p.Timeouts.UDP} {
			if *to, err = timeout(p.rest[i], 0); err != nil {
				return err
			}
		}
		p.rest = p.rest[3:]
	}
	if len(p.rest) > 0 {
		return usage("unexpected argument %s", p.rest[0])
	}
	return nil
}

// options checks that the verb has the options that it needs and no others.
func (p *parser) options() error {
	rule := verbs[p.Verb]
	for o := range options {
		switch given := p.seen.has(o); {
		case !given && rule.must.has(o):
			return usage("You need to supply the '%s' option for the '%s' command", optionNames[o], p.Verb)
		case given && !(rule.must | rule.may).has(o):
			return usage("Illegal '%s' option with the '%s' command", optionNames[o], p.Verb)
		case given && p.Verb == ListTable:
			for _, other := range conflicts[o] {
				if p.seen.has(other) {
					return usage("The option '%s' conflicts with the '%s' option in the '%s' command", optionNames[o], optionNames[other], p.Verb)
				}
			}
		}
	}
	return nil
}

// conflicts are the listings of which there can be one at a time.
var conflicts = map[option][]option{
	optService: {optConnection},
	optTimeout: {optConnection, optService},
	optDaemon:  {optConnection, optService, optTimeout},
}

func (p *parser) service() error {
	if p.Verb != AddService && p.Verb != EditService {
		return nil
	}
	if p.Persistence.Timeout == 0 {
		p.Persistence.HostBits = 0 // without persistence the mask means nothing
		if p.Service.Mark.Value == 0 && p.Service.Port == 0 {
			return usage("Zero port specified for non-persistent service")
		}
	}
	if p.OnePacket && p.Service.Mark.Value == 0 && p.Service.Proto != policy.UDP {
		return usage("One-Packet Scheduling is only for UDP virtual services")
	}
	// IPVS would take a mask with holes, such as 24 (0.0.0.24) where a length was meant.
	hosts := uint64(1) << p.Persistence.HostBits
	if p.Persistence.Timeout > 0 && p.seen.has(optNetmask) && p.Service.Is4() && p.mask != -uint32(hosts) {
		return errMask
	}
	return nil
}

// server checks what belongs together of a server, and gives it the port that it has to have.
func (p *parser) server() error {
	s := &p.Server
	switch p.Verb {
	case DeleteServer:
		*s = policy.ServerSpec{Address: s.Address}
		return nil
	case AddServer, EditServer:
	default:
		return nil
	}
	if s.Mode != policy.Tunnelled && s.Address.Addr().Is4() != p.Service.Is4() {
		return usage("Different address family is allowed only for tunneling servers")
	}
	if err := p.tunnel(); err != nil {
		return err
	}
	if s.Mode != policy.NAT && p.Service.Mark.Value == 0 {
		s.Address = netip.AddrPortFrom(s.Address.Addr(), p.Service.Port) // packets stay as they are
	}
	return nil
}

// tunnel checks the options of tunnels against each other.
func (p *parser) tunnel() error {
	t := &p.Server.Tunnel
	if p.Server.Mode != policy.Tunnelled {
		if p.seen&setOf(optTunType, optTunPort, optTunNoCsum, optTunCsum, optTunRemCsum) != 0 {
			return usage("Tunnel options conflict with forward method")
		}
		return nil
	}
	if t.Type == "" {
		t.Type = "ipip"
	}
	allowed := map[string]optionSet{
		"gue": setOf(optTunPort, optTunNoCsum, optTunCsum, optTunRemCsum),
		"gre": setOf(optTunNoCsum, optTunCsum),
	}[t.Type]
	var checksum option
	for o := optTunPort; o <= optTunRemCsum; o++ {
		switch given := p.seen.has(o); {
		case !given && o == optTunPort && t.Type == "gue":
			return usage("You need to supply the 'tun-port' option for the 'gue' tunnel type")
		case !given:
		case !allowed.has(o):
			return usage("Illegal '%s' option with the '%s' tunnel type", optionNames[o], t.Type)
		case o != optTunPort && checksum != 0:
			return usage("The option '%s' conflicts with the '%s' option in the '%s' tunnel type", optionNames[o], optionNames[checksum], t.Type)
		case o != optTunPort:
			checksum = o
		}
	}
	if t.Type == "ipip" {
		*t = policy.Tunnel{} // one way to say it
	} else if t.Checksum == "" {
		t.Checksum = "nocsum"
	}
	return nil
}

// list checks that columns are asked for where there are some.
func (p *parser) list() error {
	if p.Verb != ListTable {
		return nil
	}
	p.Daemon = Daemon{} // --syncid goes with it, and means nothing
	columns := setOf(optStats, optRate, optThresholds)
	if p.seen&setOf(optTimeout, optDaemon) != 0 {
		columns |= setOf(optPersistentConn)
	}
	if p.seen&setOf(optConnection, optTimeout, optDaemon) != 0 && p.seen&columns != 0 {
		return usage("options conflicts in the list command")
	}
	return nil
}
