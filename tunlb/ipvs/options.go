package ipvs

import "strings"

// option is what ipvsadm counts as one option, in the order in which it complains about them. Several
// spellings may share one.
type option int

const (
	optNumeric option = iota
	optConnection
	optService
	optScheduler
	optPersistent
	optNetmask
	optServer
	optForward
	optWeight
	optUpper
	optLower
	optInterface
	optTimeout
	optDaemon
	optStats
	optRate
	optThresholds
	optPersistentConn
	optNoSort
	optSyncID
	optExact
	optOnePacket
	optEngine
	optFlags
	optGroup
	optPort
	optTTL
	optMaxLen
	optTunnels
	optTunType
	optTunPort
	optTunNoCsum
	optTunCsum
	optTunRemCsum
	options // how many there are

	optIPv6    // may be repeated, and goes with every verb
	optSort    // does nothing
	optCommand // a verb
)

// optionNames are those of ipvsadm's messages.
var optionNames = [options]string{
	"numeric", "connection", "service-address", "scheduler", "persistent", "netmask", "real-server", "forwarding-method",
	"weight", "u-threshold", "l-threshold", "mcast-interface", "timeout", "daemon", "stats", "rate", "thresholds",
	"persistent-conn", "nosort", "syncid", "exact", "ops", "pe", "sched-flags", "mcast-group", "mcast-port", "mcast-ttl",
	"sync-maxlen", "tun-info", "tun-type", "tun-port", "tun-nocsum", "tun-csum", "tun-remcsum",
}

// optionSet has a bit for each option.
type optionSet uint64

func setOf(list ...option) (s optionSet) {
	for _, o := range list {
		s |= 1 << o
	}
	return s
}

func (s optionSet) has(o option) bool { return s&(1<<o) != 0 }

// verbs say which options go with which verb.
var verbs = map[Verb]struct{ must, may optionSet }{
	AddService:    {setOf(optService), setOf(optScheduler, optPersistent, optNetmask, optOnePacket, optEngine, optFlags)},
	EditService:   {setOf(optService), setOf(optScheduler, optPersistent, optNetmask, optOnePacket, optEngine, optFlags)},
	DeleteService: {setOf(optService), 0},
	AddServer:     {setOf(optService, optServer), ofServers},
	EditServer:    {setOf(optService, optServer), ofServers},
	DeleteServer:  {setOf(optService, optServer), 0},
	StartDaemon:   {0, setOf(optInterface, optSyncID, optMaxLen, optGroup, optPort, optTTL)},
	StopDaemon:    {0, setOf(optSyncID)},
	ListTable: {0, setOf(optNumeric, optConnection, optService, optTimeout, optDaemon, optStats, optRate, optThresholds,
		optPersistentConn, optNoSort, optSyncID, optExact, optTunnels)},
	ZeroCounters: {0, setOf(optService)},
	SaveTable:    {0, setOf(optNumeric)},
}

var ofServers = setOf(optForward, optWeight, optUpper, optLower, optTunType, optTunPort, optTunNoCsum, optTunCsum, optTunRemCsum)

// spelling is one way to write an option or a command.
type spelling struct {
	short byte // 0: none
	long  string
	opt   option
	verb  Verb // iff opt is optCommand
	takes argument
}

// argument says what follows an option.
type argument int

const (
	nothing argument = iota
	value
	perhaps // a value, if what follows is attached or does not look like an option
)

var spellings = []spelling{
	{'A', "add-service", optCommand, AddService, nothing},
	{'E', "edit-service", optCommand, EditService, nothing},
	{'D', "delete-service", optCommand, DeleteService, nothing},
	{'C', "clear", optCommand, Flush, nothing},
	{'a', "add-server", optCommand, AddServer, nothing},
	{'e', "edit-server", optCommand, EditServer, nothing},
	{'d', "delete-server", optCommand, DeleteServer, nothing},
	{'L', "list", optCommand, ListTable, nothing},
	{'l', "", optCommand, ListTable, nothing},
	{'Z', "zero", optCommand, ZeroCounters, nothing},
	{'S', "save", optCommand, SaveTable, nothing},
	{'R', "restore", optCommand, RestoreTable, nothing},
	{'h', "help", optCommand, Help, nothing},
	{'v', "version", optCommand, Version, nothing},
	{0, "set", optCommand, Set, nothing},
	{0, "start-daemon", optCommand, StartDaemon, value},
	{0, "stop-daemon", optCommand, StopDaemon, value},

	{'t', "tcp-service", optService, "", value},
	{'u', "udp-service", optService, "", value},
	{0, "sctp-service", optService, "", value},
	{'f', "fwmark-service", optService, "", value},
	{'6', "ipv6", optIPv6, "", nothing},
	{'s', "scheduler", optScheduler, "", value},
	{'p', "persistent", optPersistent, "", perhaps},
	{'M', "netmask", optNetmask, "", value},
	{'o', "ops", optOnePacket, "", nothing},
	{0, "pe", optEngine, "", value},
	{'b', "sched-flags", optFlags, "", value},
	{'r', "real-server", optServer, "", value},
	{'g', "gatewaying", optForward, "", nothing},
	{'i', "ipip", optForward, "", nothing},
	{'m', "masquerading", optForward, "", nothing},
	{'w', "weight", optWeight, "", value},
	{'x', "u-threshold", optUpper, "", value},
	{'y', "l-threshold", optLower, "", value},
	{0, "tun-type", optTunType, "", value},
	{0, "tun-port", optTunPort, "", value},
	{0, "tun-nocsum", optTunNoCsum, "", nothing},
	{0, "tun-csum", optTunCsum, "", nothing},
	{0, "tun-remcsum", optTunRemCsum, "", nothing},
	{'n', "numeric", optNumeric, "", nothing},
	{'c', "connection", optConnection, "", nothing},
	{0, "timeout", optTimeout, "", nothing},
	{0, "daemon", optDaemon, "", nothing},
	{0, "stats", optStats, "", nothing},
	{0, "rate", optRate, "", nothing},
	{0, "thresholds", optThresholds, "", nothing},
	{0, "persistent-conn", optPersistentConn, "", nothing},
	{0, "tun-info", optTunnels, "", nothing},
	{0, "exact", optExact, "", nothing},
	{0, "nosort", optNoSort, "", nothing},
	{0, "sort", optSort, "", nothing},
	{0, "mcast-interface", optInterface, "", value},
	{0, "syncid", optSyncID, "", value},
	{0, "sync-maxlen", optMaxLen, "", value},
	{0, "mcast-group", optGroup, "", value},
	{0, "mcast-port", optPort, "", value},
	{0, "mcast-ttl", optTTL, "", value},
}

// scanner takes arguments apart into options, as the popt library does for ipvsadm.
type scanner struct {
	args    []string
	cluster string   // short options of the last argument that are still to come
	rest    []string // what was no option so far
}

// token is one option as it was written.
type token struct {
	*spelling
	text  string // its value
	given bool   // whether there is one
}

// next takes the next option; nil at the end. Errors are in popt's words.
func (s *scanner) next(consumed *string) (*token, error) {
	for s.cluster == "" {
		if len(s.args) == 0 {
			return nil, nil
		}
		arg := s.args[0]
		s.args, *consumed = s.args[1:], arg
		switch {
		case arg == "--":
			s.rest, s.args = append(s.rest, s.args...), nil
		case strings.HasPrefix(arg, "--"):
			return s.long(arg, consumed)
		case len(arg) > 1 && arg[0] == '-':
			s.cluster = arg[1:]
		default:
			s.rest = append(s.rest, arg)
		}
	}
	return s.short(consumed)
}

func (s *scanner) long(arg string, consumed *string) (*token, error) {
	name, text, attached := strings.Cut(arg[2:], "=")
	for i := range spellings {
		if spellings[i].long == name && name != "" {
			return s.value(&spellings[i], arg, text, attached, consumed)
		}
	}
	return nil, misuse(arg, "unknown option")
}

func (s *scanner) short(consumed *string) (*token, error) {
	letter, rest := s.cluster[0], s.cluster[1:]
	for i := range spellings {
		o := &spellings[i]
		if o.short != letter {
			continue
		}
		s.cluster = rest
		if o.takes != nothing || strings.HasPrefix(rest, "=") {
			s.cluster = ""
			return s.value(o, *consumed, strings.TrimPrefix(rest, "="), rest != "", consumed)
		}
		return &token{spelling: o}, nil
	}
	return nil, misuse(*consumed, "unknown option")
}

// value finds the value of an option: attached to it, or the next argument.
func (s *scanner) value(o *spelling, arg, text string, attached bool, consumed *string) (*token, error) {
	switch {
	case o.takes == nothing && attached:
		return nil, misuse(arg, "option does not take an argument")
	case o.takes == nothing || attached:
		return &token{o, text, attached}, nil
	case len(s.args) == 0 && o.takes == value:
		return nil, misuse(arg, "missing argument")
	case len(s.args) == 0 || o.takes == perhaps && strings.HasPrefix(s.args[0], "-"):
		return &token{spelling: o}, nil
	}
	text = s.args[0]
	s.args, *consumed = s.args[1:], text
	return &token{o, text, true}, nil
}

func misuse(arg, why string) error { return &Error{arg + ": " + why, exitFailed} }
