package replay

import (
	"net/netip"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/capture"
	"github.com/tunlb/tunlb/tunlb/config"
)

// Why packets of a file are not replayed.
// CutOff is the cause in Summary.Skipped of packets that the file has only a part of.
const CutOff = "cut off: the file has only a part of it"

const (
	skipOut    = "left by a port of tunlb's"
	skipOwn    = "sent by tunlb itself"
	skipNoIP   = "no IP packet, for a port that takes nothing else"
	skipTooBig = "longer than any packet"
)

// places knows by which port a packet came in.
type places struct {
	cfg     *config.Config
	byName  map[string]int
	own     map[netip.Addr]bool
	servers map[netip.Addr]bool
	mac     packet.MAC
}

func newPlaces(cfg *config.Config, mac packet.MAC) *places {
	w := &places{cfg: cfg, byName: map[string]int{}, own: ownAddresses(cfg), servers: map[netip.Addr]bool{}, mac: mac}
	for i := range cfg.Ports {
		w.byName[cfg.Ports[i].Name] = i
	}
	for i := range cfg.Services {
		for _, s := range cfg.Services[i].Servers {
			w.servers[s.Address.Addr()] = true
		}
		if sorry := cfg.Services[i].Sorry; sorry != nil {
			w.servers[sorry.Address.Addr()] = true
		}
	}
	return w
}

// of finds the port of a packet, or why there is none. A capture of tunlb's own says it; of any other the source decides.
func (w *places) of(p *capture.Packet, l layers) (port int, skip string) {
	if i, known := w.byName[p.Port]; known && p.Own {
		if p.Side == capture.Out {
			return 0, skipOut
		}
		return i, ""
	}
	if p.Own && p.Side == capture.Out {
		return 0, skipOut // of a port that the configuration does not have
	}
	from := l.source()
	if _, mac, ok := l.macs(); w.own[from] && !l.isARP() || ok && mac == w.mac {
		return 0, skipOwn
	}
	return w.behind(from), ""
}

// behind is the port that an address lies behind: the one with the longest prefix that has it, else the first.
func (w *places) behind(from netip.Addr) int {
	at, longest := 0, -1
	for i := range w.cfg.Ports {
		for _, p := range w.cfg.Ports[i].Prefixes() {
			if p.Contains(from) && p.Bits() > longest {
				at, longest = i, p.Bits()
			}
		}
	}
	if w.cfg.Ports[at].Side == "" {
		return at
	}
	side := config.Clients // the prefixes of a switch are said of one of its ports
	if w.servers[from] {
		side = config.Servers
	}
	for i := range w.cfg.Ports {
		if w.cfg.Ports[i].Side == side {
			return i
		}
	}
	return at
}
