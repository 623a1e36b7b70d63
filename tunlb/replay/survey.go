package replay

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/tunlb/tunlb/stack/neigh"
	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/capture"
	"github.com/tunlb/tunlb/tunlb/config"
)

// survey is what is found out of a file before it is replayed.
type survey struct {
	packets int
	first   int64      // the earliest time
	mac     packet.MAC // of tunlb, as those know it who ask a VIP; zero if nobody does
	// answers are frames in which a station says its own address and MAC, an ARP reply or an advertisement. The first
	// of each address.
	answers map[netip.Addr][]byte
}

// maxAnswers bounds answers.
const maxAnswers = 1 << 16

// look goes through the file once.
func look(f *file, cfg *config.Config) (*survey, error) {
	s := &survey{answers: map[netip.Addr][]byte{}}
	own := ownAddresses(cfg)
	err := f.visit(func(p *capture.Packet) error {
		if s.packets++; s.packets == 1 || p.Time < s.first {
			s.first = p.Time
		}
		l, err := peel(p.Link, p.Data)
		if err != nil || l.ethernet == nil || len(p.Data) < p.Length {
			return nil // which is told when it is its turn
		}
		to, _, _ := l.macs()
		if s.mac.IsZero() && l.ip != nil && own[l.destination()] && !to.IsGroup() {
			s.mac = to
		}
		if a := answerOf(l); a.IsValid() && !own[a] && s.answers[a] == nil && len(s.answers) < maxAnswers {
			s.answers[a] = slices.Clone(p.Data)
		}
		return nil
	})
	if err == nil && s.packets == 0 {
		err = errors.New(f.path + ": there is no packet in it")
	}
	return s, err
}

// ownAddresses are those that tunlb has itself.
func ownAddresses(cfg *config.Config) map[netip.Addr]bool {
	own := map[netip.Addr]bool{}
	for i := range cfg.Ports {
		for _, a := range cfg.Ports[i].Router {
			own[a] = true
		}
		for _, p := range cfg.Ports[i].Own {
			own[p.Addr()] = true
		}
	}
	for i := range cfg.Services {
		for _, l := range cfg.Services[i].Listen {
			own[l.Addr] = true
		}
	}
	for _, g := range cfg.Gateways {
		own[g.Masquerade] = true
	}
	return own
}

const (
	arpRequest, arpReply   = 1, 2
	ndRequest, ndAdvertise = 135, 136
)

// answerOf is the address that a frame is an answer about; the zero Addr if it is none.
func answerOf(l layers) netip.Addr {
	if op, sender, _ := l.arp(); op == arpReply {
		return sender
	}
	if kind, target := l.discovery(); kind == ndAdvertise {
		return target
	}
	return netip.Addr{}
}

// questionOf is the address that a frame asks for.
func questionOf(l layers) netip.Addr {
	if op, _, target := l.arp(); op == arpRequest {
		return target
	}
	if kind, target := l.discovery(); kind == ndRequest {
		return target
	}
	return netip.Addr{}
}

// arp reads an ARP message; op is 0 if it is none.
func (l layers) arp() (op uint16, sender, target netip.Addr) {
	if !l.isARP() {
		return 0, sender, target
	}
	return be.Uint16(l.ethernet[packet.EthernetLen+6:]), l.source(), l.destination()
}

// discovery reads neighbour discovery; kind is 0 if it is none.
func (l layers) discovery() (kind uint8, target netip.Addr) {
	const ip6Len, length = 40, 24
	if len(l.ip) < ip6Len+length || l.ip[0]>>4 != 6 || l.ip[6] != packet.ProtoICMPv6 || l.ethernet == nil {
		return 0, target
	}
	return l.ip[ip6Len], netip.AddrFrom16([16]byte(l.ip[ip6Len+8:]))
}

// answerTo is what the file has of the station that a frame of tunlb's own asks for, addressed to tunlb; nil if nothing.
func (s *survey) answerTo(question []byte, mac packet.MAC) (target netip.Addr, frame []byte) {
	if len(question) < packet.VnetLen+packet.EthernetLen || !neigh.Is(question) {
		return target, nil
	}
	ethernet := question[packet.VnetLen:]
	target = questionOf(layers{ethernet: ethernet, ip: behindEthernet(ethernet)})
	known := s.answers[target]
	if known == nil {
		return target, nil
	}
	frame = append(make([]byte, packet.VnetLen, packet.VnetLen+len(known)), known...)
	copy(frame[packet.VnetLen:], mac[:])
	if asker := (layers{ethernet: ethernet}); asker.isARP() { // it may have been somebody else who had asked then
		const senderIP, receiverMAC, receiverIP = packet.EthernetLen + 14, packet.VnetLen + packet.EthernetLen + 18, packet.VnetLen + packet.EthernetLen + 24
		copy(frame[receiverMAC:], mac[:])
		copy(frame[receiverIP:], ethernet[senderIP:senderIP+4])
	}
	return target, frame
}
