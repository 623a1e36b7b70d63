package scenario

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tunlb/tunlb/labnet"
	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// MaxDelay is the most that a link can be told to delay.
const MaxDelay = 10 * time.Second

// Bounds of what a link and a server can be told, and of names: those of hosts become names of interfaces and namespaces.
const (
	maxName    = 15
	maxLabName = 32
	maxSlow    = time.Minute
	defaultMTU = 1500
)

// Parse reads a lab file; name stands for it in the errors, which are a config.Errors: all that is wrong at once, each
// with its line and column.
func Parse(name string, data []byte) (*File, error) {
	d := &decoder{file: name}
	if root := d.parse(data); root != nil {
		d.document(root, string(data))
	}
	if len(d.errs) > 0 {
		return nil, d.sorted()
	}
	return &d.lab, nil
}

// Load reads the lab file at path, or the shipped scenario of that name if there is no such file.
func Load(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		return Parse(path, data)
	}
	if text, ok := shippedText(path); ok {
		return Parse(path+".yaml", text)
	}
	meant := ""
	if name := wording.Nearest(path, Shipped()); name != "" {
		meant = fmt.Sprintf("did you mean %s? ", name)
	}
	return nil, fmt.Errorf("read the lab file: %w; %stunlb comes with the labs %s", err, meant, wording.Enumerate(Shipped(), "and"))
}

// places is where things stand that are checked once all has been read.
type places struct {
	hosts    []hostAt // parallel to the File's Hosts
	director hostAt
	configAt pos // zero if there is none
	steps    []*stepAt
}

type hostAt struct {
	name, port pos
	links      []linkAt
	gateways   []pos
	loopback   []pos
	services   []pos
	unread     bool // something of it could not be read, which has been reported
}

type linkAt struct {
	at, side  pos
	addresses []pos
}

func (d *decoder) document(root *node, data string) {
	if n := root.field("networks"); n != nil && n.kind != null { // first: the others name them
		d.networks(n)
	}
	before := len(d.errs)
	keys := []key{
		{"name", func(n *node) {
			if s, ok := d.str(n, "name"); ok && d.label(n.at, "lab", s, maxLabName) {
				d.lab.Name = s
			}
		}},
		{"networks", func(*node) {}},
		{"hosts", func(n *node) { d.named(n, "hosts", d.host) }},
		{"director", func(n *node) { d.director(n, data) }},
		{"steps", func(*node) {}}, // at last: they name what the others define
	}
	if !d.fields(root, "a lab", keys...) {
		return
	}
	if len(d.errs) > before && slices.ContainsFunc(root.fields, func(f field) bool {
		return !slices.ContainsFunc(keys, func(k key) bool { return k.name == f.key })
	}) {
		return // the part that is misspelt is what all else would miss
	}
	for _, k := range []struct{ name, instead string }{
		{"networks", "write networks: {outside: {}, inside: {}}"},
		{"hosts", "write hosts: {client: {networks: {outside: [198.51.100.7/24]}}}"},
		{"director", "write director: {name: lb, ...}"},
	} {
		if root.field(k.name) == nil {
			d.fail(root.at, fmt.Sprintf("lab without %q", k.name), "a lab is networks, hosts on them and a director", k.instead)
		}
	}
	if d.lab.Name == "" {
		d.lab.Name = nameOf(d.file)
	}
	d.check()
	if n := root.field("steps"); n != nil && n.kind != null {
		d.items(n, "steps", d.step)
		d.checkSteps()
	}
}

// nameOf is what a lab is called whose file does not say.
func nameOf(file string) string {
	base := filepath.Base(file)
	if name := strings.TrimSuffix(base, filepath.Ext(base)); isLabel(name, maxLabName) {
		return name
	}
	return "lab"
}

func (d *decoder) networks(n *node) {
	d.named(n, "networks", func(name string, at pos, n *node) {
		d.label(at, "network", name, maxName)
		before := len(d.errs)
		network := Network{Name: name, MTU: defaultMTU}
		if n.kind != null {
			d.fields(n, "a network", append(d.link(&network.Link), key{"mtu", func(n *node) { network.MTU = d.number(n, "mtu", 1280, 65521) }})...)
		}
		d.checkLink(at, network.Link, before)
		d.lab.Networks = append(d.lab.Networks, network)
	})
}

// link is the keys of what a link does to packets.
func (d *decoder) link(i *Impairment) []key {
	return []key{
		{"delay", func(n *node) { i.Delay = d.duration(n, "delay", MaxDelay) }},
		{"loss", func(n *node) { i.Loss = d.share(n, "loss") }},
		{"reorder", func(n *node) { i.Reorder = d.share(n, "reorder") }},
	}
}

// checkLink is called with the number of errors that there were before the link was read: one in its delay says enough.
func (d *decoder) checkLink(at pos, i Impairment, before int) {
	if i.Reorder > 0 && i.Delay == 0 && len(d.errs) == before {
		d.fail(at, "reorder without delay", "packets overtake others by not being delayed", "write delay: 10ms, too")
	}
}

func (d *decoder) host(name string, at pos, n *node) {
	h, hat, before := Host{Name: name}, hostAt{name: at, port: at}, len(d.errs)
	d.label(at, "host", name, maxName)
	ok := d.fields(n, "a host",
		key{"networks", func(n *node) { h.Attachments = d.attachments(n, &hat, false) }},
		key{"gateway", func(n *node) {
			d.oneOrMore(n, "gateway", func(n *node) {
				h.Gateways = append(h.Gateways, d.address(n, "gateway"))
				hat.gateways = append(hat.gateways, n.at)
			})
		}},
		key{"loopback", func(n *node) {
			d.oneOrMore(n, "loopback", func(n *node) {
				h.Loopback = append(h.Loopback, d.single(n))
				hat.loopback = append(hat.loopback, n.at)
			})
		}},
		key{"services", func(n *node) {
			d.items(n, "services", func(n *node) {
				h.Services = append(h.Services, d.service(n))
				hat.services = append(hat.services, n.at)
			})
		}},
	)
	if ok && len(h.Attachments) == 0 && n.field("networks") == nil {
		d.fail(at, fmt.Sprintf("host %q without networks", name), "nobody would reach it", "write networks: {NETWORK: [ADDRESS/LENGTH]}")
	}
	hat.unread = len(d.errs) > before
	d.lab.Hosts = append(d.lab.Hosts, h)
	d.at.hosts = append(d.at.hosts, hat)
}

// single reads an address that is a host's alone, with or without its /32 or /128.
func (d *decoder) single(n *node) netip.Prefix {
	if p, err := netip.ParsePrefix(n.text); err == nil && p.IsSingleIP() && unicast(p.Addr()) {
		return p
	}
	a := d.address(n, "loopback")
	return netip.PrefixFrom(a, a.BitLen())
}

// attachments reads NETWORK: [ADDRESS/LENGTH, ...] or, with what the link does, NETWORK: {addresses: [...], delay: ...}.
func (d *decoder) attachments(n *node, hat *hostAt, director bool) (all []Attachment) {
	d.named(n, "networks", func(name string, at pos, n *node) {
		a, lat, before := Attachment{Network: name}, linkAt{at: at, side: at}, len(d.errs)
		network, known := d.lab.Network(name)
		a.Link = network.Link
		if !known && len(d.lab.Networks) > 0 { // else that is the error
			var names []string
			for _, n := range d.lab.Networks {
				names = append(names, n.Name)
			}
			d.fail(at, fmt.Sprintf("unknown network %s", wording.Quote(name)), "networks: has none of this name", wording.Suggest(name, names))
		}
		addresses := func(n *node) {
			d.oneOrMore(n, "addresses", func(n *node) {
				p, _ := d.prefix(n, "address")
				a.Addresses = append(a.Addresses, p)
				lat.addresses = append(lat.addresses, n.at)
			})
		}
		if n.kind != mapping {
			addresses(n)
		} else {
			keys := append(d.link(&a.Link), key{"addresses", addresses})
			if director {
				keys = append(keys, key{"side", func(n *node) { lat.side = n.at; a.Side = d.choice(n, "side", "clients", "servers") }})
			}
			d.fields(n, "a host's link", keys...)
			d.checkLink(at, a.Link, before)
		}
		all = append(all, a)
		hat.links = append(hat.links, lat)
	})
	return all
}

// service reads a server program.
func (d *decoder) service(n *node) (s Service) {
	ok := d.fields(n, "a service", append(d.behaviour(&s.Behaviour),
		key{"type", func(n *node) {
			s.Kind = labnet.Kind(d.choice(n, "type", string(labnet.HTTP), string(labnet.TCPEcho), string(labnet.UDPEcho)))
		}},
		key{"port", func(n *node) { s.Port = uint16(d.number(n, "port", 1, 65535)) }},
	)...)
	if !ok {
		return s
	}
	for _, missing := range []string{"type", "port"} {
		if n.field(missing) == nil {
			d.fail(n.at, fmt.Sprintf("service without %q", missing), "it says what the host serves, and where", "write {type: http, port: 80}")
		}
	}
	if f := n.field("fail"); f != nil && s.Kind != labnet.HTTP && s.Kind != "" {
		d.fail(f.at, fmt.Sprintf("\"fail\" of a %s", s.Kind), "it is a status of HTTP", "write silent: true, or stopped: true")
	}
	return s
}

// behaviour is the keys of how a server program answers.
func (d *decoder) behaviour(b *Behaviour) []key {
	return []key{
		{"slow", func(n *node) { b.Slow = d.duration(n, "slow", maxSlow) }},
		{"fail", func(n *node) { b.Fail = d.number(n, "fail", 400, 599) }},
		{"silent", func(n *node) { b.Silent = d.boolean(n, "silent") }},
		{"stopped", func(n *node) { b.Stopped = d.boolean(n, "stopped") }},
	}
}

func (d *decoder) director(n *node, data string) {
	dir, at := &d.lab.Director, &d.at.director
	at.name, at.port = n.at, n.at
	dir.Name, dir.Port = "lb", "tun"
	ok := d.fields(n, "the director",
		key{"name", func(n *node) {
			at.name = n.at
			if s, ok := d.str(n, "name"); ok && d.label(n.at, "director", s, maxName) {
				dir.Name = s
			}
		}},
		key{"port", func(n *node) { at.port = n.at; dir.Port = d.choice(n, "port", "tun", "tap") }},
		key{"networks", func(n *node) { dir.Attachments = d.attachments(n, at, true) }},
		key{"config", func(n *node) { d.directorConfig(n, data) }},
	)
	if !ok {
		return
	}
	if n.field("networks") == nil {
		d.fail(n.at, "director without networks", "it stands between clients and servers", "write networks: {outside: [198.51.100.1/24], inside: [192.168.0.100/24]}")
	}
	if n.field("config") == nil {
		d.fail(n.at, "director without config", "tunlb would have nothing to balance", "write config: with services: [...] below it")
	}
}

// directorConfig cuts tunlb's configuration out of the file.
func (d *decoder) directorConfig(n *node, data string) {
	if n.kind != mapping || n.flow || len(n.fields) == 0 {
		d.fail(n.at, fmt.Sprintf(`"config" is %s`, map[bool]string{true: "a map in braces", false: kindNames[n.kind]}[n.kind == mapping]),
			"it is tunlb's own configuration, as in a file of its own", "write services: in a line of its own, indented more than config:")
		return
	}
	for _, f := range n.fields {
		if slices.Contains([]string{"ports", "control", "metrics"}, f.key) {
			d.fail(f.at, fmt.Sprintf("%q in the director's config", f.key), "the lab makes it, from the director's port and networks", "remove the key")
			return // beside the lab's own it would be wrong in other ways, too
		}
	}
	d.at.configAt = n.at
	d.lab.Director.Text, d.lab.Director.Indent = cut(data, n.at)
}
