package ipvs

import (
	"bufio"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/tunlb/tunlb/policy"
)

// Names turns names into addresses and ports, and back. Functions that are nil know nothing, so the zero value
// is numeric: what -n asks for.
type Names struct {
	Addr func(host string) (netip.Addr, bool) // an IPv4 address: ipvsadm knows no others by name
	Port func(service string, proto uint8) (uint16, bool)

	Host    func(netip.Addr) (string, bool)
	Service func(port uint16, proto uint8) (string, bool)
}

// WithServices has Port and Service answer from a file such as /etc/services.
func (n Names) WithServices(file io.Reader) (Names, error) {
	type key struct {
		name  string
		port  uint16
		proto uint8
	}
	ports, services := map[key]uint16{}, map[key]string{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		number, name, _ := strings.Cut(words[1], "/")
		port, err := strconv.ParseUint(number, 10, 16)
		proto, ok := policy.ParseProto(name)
		if err != nil || !ok {
			continue
		}
		at := key{port: uint16(port), proto: proto}
		if _, ok := services[at]; !ok {
			services[at] = words[0]
		}
		for i, alias := range words {
			if i == 1 {
				continue
			}
			if by := (key{name: alias, proto: proto}); ports[by] == 0 {
				ports[by] = uint16(port)
			}
		}
	}
	n.Port = func(service string, proto uint8) (uint16, bool) {
		port, ok := ports[key{name: service, proto: proto}]
		return port, ok
	}
	n.Service = func(port uint16, proto uint8) (string, bool) {
		name, ok := services[key{port: port, proto: proto}]
		return name, ok
	}
	return n, lines.Err()
}

// place is host:port by names where there are some. Proto 0 knows no name of a port.
func (n Names) place(addr netip.Addr, port uint16, proto uint8) string {
	host, named := "", false
	if n.Host != nil {
		host, named = n.Host(addr)
	}
	if !named {
		host = addr.String()
	}
	if addr.Is6() {
		host = "[" + host + "]"
	}
	service := strconv.Itoa(int(port))
	if n.Service != nil && port != 0 && proto != 0 {
		if name, ok := n.Service(port, proto); ok {
			service = name
		}
	}
	return host + ":" + service
}
