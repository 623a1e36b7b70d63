// Package doctor looks a setup over from the load balancer's side and says what is wrong with it, each finding with
// the command that mends it.
//
// It owns the checks and what they look at: the configuration, the running daemon's status and what the kernel tells
// of devices, routes, rules, neighbours and settings. It changes nothing. The only packets that it sends are TCP
// connections, opened and closed at once, to the real servers of nat services that the box itself routes to, and to
// the endpoint of metrics. What cannot be read anywhere it tries, and undoes at once: opening /dev/net/tun, making a user
// namespace, listening for metrics. It does
// not own the command line, nor how findings are shown.
//
// A check is a function of the facts alone (facts.go); gathering them is for Linux only (gather_linux.go).
package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tunlb/tunlb/tunlb/config"
	"github.com/tunlb/tunlb/tunlb/control"
)

// Patience bounds an examination: whatever does not answer until then counts as silent.
const Patience = 3 * time.Second

// ErrUnsupported says that this system cannot be examined.
var ErrUnsupported = errors.New("tunlb doctor looks at a Linux kernel, and this system has none")

// Severity is how bad a finding is.
type Severity string

const (
	OK   Severity = "ok"   // looked at and found in order
	Note Severity = "note" // worth knowing; nothing has to be done
	Warn Severity = "warn" // works badly, or for some, or not for long
	Fail Severity = "fail" // does not work
)

// Finding is one thing that was found. A plain value.
type Finding struct {
	Severity Severity `json:"severity"`
	Check    string   `json:"check"`   // one of Checks
	Subject  string   `json:"subject"` // where: an interface, a namespace, a server
	Text     string   `json:"text"`
	Fix      string   `json:"fix,omitempty"` // a command; one for another machine says so in a comment, an edit of the file comes in words before it
	cannot   bool
}

// Report is the outcome of an examination.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Count is the number of findings of a severity.
func (r Report) Count(s Severity) (n int) {
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// Cannot says that tunlb cannot run on this machine at all: it lacks a device or a privilege.
func (r Report) Cannot() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.cannot })
}

// Options say what to examine.
type Options struct {
	File    string          // configuration file; "" is that of the running daemon, if there is one
	Client  *control.Client // asks the daemon
	Version string          // of this program
}

// Examine looks at everything, in at most Patience. A file named in the options that is not valid is an error
// (config.Errors); all else that is wrong is a finding.
func Examine(ctx context.Context, o Options) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	f := facts{Options: o, spaces: map[string]*space{}}
	if err := f.ask(ctx); err != nil {
		return Report{}, err
	}
	if err := f.gather(ctx); err != nil {
		return Report{}, err
	}
	return f.judge(), nil
}

// ask finds out what the daemon and the file say.
func (f *facts) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	status, err := f.Client.Status(ctx)
	if f.statusErr = err; err == nil {
		f.status = &status
		f.listConns(ctx)
	}
	f.file = f.File
	if f.file == "" && f.status != nil {
		f.file = f.status.Daemon.Config
	}
	if f.file == "" {
		return nil
	}
	f.config, f.fileErr = config.Load(f.file)
	if f.fileErr != nil && f.File != "" {
		return f.fileErr
	}
	return nil
}

// Check is one of the things that are looked at.
type Check struct {
	Name string
	What string
	run  func(*facts) []Finding
}

// Checks lists all of them, in the order in which they are made.
func Checks() []Check {
	return []Check{
		{"control", "the control socket answers, and its daemon is of this program's version", checkControl},
		{"file", "the configuration file is valid and the one in force", checkFile},
		{"tun", "/dev/net/tun can be opened", checkTUN},
		{"privilege", "CAP_NET_ADMIN, and CAP_NET_RAW for packet ports", checkPrivilege},
		{"userns", "user namespaces can be made and have their privileges, for demo, labs and ordinary users", checkUserNamespaces},
		{"netns", "the network namespaces of the ports exist", checkNetNS},
		{"port", "the ports' devices are there, or can be made", checkPorts},
		{"forwarding", "the box forwards", checkForwarding},
		{"rp_filter", "no reverse path filter drops what tunlb needs", checkReversePath},
		{"accept_local", "what tunlb writes may come from the box's own addresses", checkAcceptLocal},
		{"vip", "the virtual addresses reach this box", checkVIPs},
		{"rules", "the policy rules lead requests and answers to tunlb", checkRules},
		{"route", "every server has a route, and not through tunlb's device", checkRoutes},
		{"neighbour", "servers and routers answer ARP and neighbour discovery", checkNeighbours},
		{"server", "servers take connections", checkServers},
		{"gateway", "servers' answers come back", checkGateway},
		{"translation", "clients whose answers would go past tunlb", checkTranslation},
		{"local_ports", "the gateway's ports are none that the box takes", checkLocalPorts},
		{"arp", "nobody but tunlb answers for a virtual address", checkARP},
		{"loop", "no frame comes back past tunlb, the switch", checkLoops},
		{"passing", "direct routing: answers go past tunlb", checkPassing},
		{"interface", "the box's own interfaces as ports: all that matter are listed, and the kernel leaves alone what tunlb takes", checkInterfaces},
		{"fastpath", "the kernel's packet filter can carry connections", checkFastpath},
		{"overrun", "packet sockets have had room for every frame", checkOverruns},
		{"mtu", "the MTUs along the way fit", checkMTU},
		{"offload", "super-packets and checksums pass whole", checkOffload},
		{"netfilter", "no packet filter is in the way", checkNetfilter},
		{"metrics", "the endpoint of metrics answers, or can be had", checkMetrics},
	}
}

// judge makes all checks.
func (f *facts) judge() Report {
	r := Report{Findings: []Finding{}}
	for _, c := range Checks() {
		for _, finding := range c.run(f) {
			finding.Check = c.Name
			r.Findings = append(r.Findings, finding)
		}
	}
	return r
}

// findings collects those of one check.
type findings []Finding

func (l *findings) add(s Severity, subject, fix, format string, args ...any) {
	*l = append(*l, Finding{Severity: s, Subject: subject, Text: fmt.Sprintf(format, args...), Fix: fix})
}

// orOK is the findings, or that all is well if there are none: for what has been looked at.
func (l findings) orOK(subject, format string, args ...any) []Finding {
	if len(l) == 0 {
		l.add(OK, subject, "", format, args...)
	}
	return l
}
