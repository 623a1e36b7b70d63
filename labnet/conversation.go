package labnet

import (
	"io"
	"net/netip"
	"slices"
	"time"
)

// Exchanges are messages by which hosts learn each other's MACs, in order.
type Exchanges []Exchange

// Exchange is one such message of ARP or neighbour discovery, wherever it was seen.
type Exchange struct {
	From, To string // stations; To is "everybody" for broadcast and multicast
	Says     Says
	Target   netip.Addr // the address that it is about
	Sender   netip.Addr // the address in whose name it is; unspecified for Probes
	MAC      MAC        // what the sender says its MAC is
	At       []string   // the hops that saw it
	Fate     Fate
}

// Says is what a message says.
type Says uint8

// What messages say.
const (
	Asks      Says = iota // who has Target? Who hears it learns Sender's MAC as well.
	Answers               // Target is at MAC
	Announces             // the same, unasked
	Probes                // is Target free?
)

// Fate is what became of a message that should have got to the other side.
type Fate string

// The fates. The zero value stands for all that has arrived, or had nowhere else to go.
const (
	Suppressed Fate = "suppressed"    // a server's word in the name of an address that is not its to give: no client has seen it
	Withheld   Fate = "not passed on" // another message that the other side has not seen
)

// Conversation finds in what was captured at clients and at servers, on their own interfaces, who
// asked for an address, who claimed it, and which claims of servers never got to a client. It
// takes note of messages for or in the name of the addresses in about (the VIPs), or of all
// if there are none. Names are those of Lab.Names.
func Conversation(clients, servers []Point, names map[MAC]string, about ...netip.Addr) Exchanges {
	points := append(slices.Clone(clients), servers...)
	known := make(map[utteranceKey]*utterance)
	heard := make([][]*utterance, len(points)) // at each point, in order
	stations := make(map[MAC]bool)             // the clients'
	for i, point := range points {
		count := make(map[string]int)
		for _, p := range point.Packets {
			src, dst, _ := p.MACs()
			if i < len(clients) && p.Out {
				stations[src] = true
			}
			e, ok := resolution(p)
			if !ok || len(about) > 0 && !slices.Contains(about, e.Target) && !slices.Contains(about, e.Sender) {
				continue
			}
			// A repetition is another message: the n-th here is the n-th elsewhere.
			key := utteranceKey{string(p.Data), count[string(p.Data)]}
			count[key.frame]++
			u := known[key]
			if u == nil {
				e.From, e.To = station(names, src), station(names, dst)
				u = &utterance{Exchange: e, dst: dst, time: p.Time, sentAt: -1}
				known[key] = u
			}
			if p.Time.Before(u.time) {
				u.time = p.Time
			}
			if p.Out {
				u.sentAt = i
			}
			u.seen = append(u.seen, i)
			u.At = append(u.At, point.Hop)
			heard[i] = append(heard[i], u)
		}
	}
	var all Exchanges
	for _, u := range inOrder(heard) {
		u.Fate = u.fate(len(clients), len(points), stations, about)
		all = append(all, u.Exchange)
	}
	return all
}

// utterance is an Exchange being put together.
type utterance struct {
	Exchange
	dst    MAC
	time   time.Time // the first of all points
	sentAt int       // the point whose host has sent it; -1 if none of them
	seen   []int     // points
}

type utteranceKey struct {
	frame string
	n     int
}

// fate tells whether a message has got from one side to the other; the first points are the clients'.
func (u *utterance) fate(clients, points int, stations map[MAC]bool, about []netip.Addr) Fate {
	fromServer := u.sentAt >= clients
	first, end := clients, points // the other side's
	if fromServer {
		first, end = 0, clients
	}
	switch {
	case u.sentAt < 0 || first == end:
		return "" // not for us to know
	case !u.dst.IsGroup() && !(fromServer && stations[u.dst]):
		return "" // to somebody on its own side, or to neither
	case slices.ContainsFunc(u.seen, func(i int) bool { return first <= i && i < end }):
		return ""
	}
	claimed := u.Target
	if u.Says == Asks {
		claimed = u.Sender
	}
	if fromServer && (len(about) == 0 || slices.Contains(about, claimed)) {
		return Suppressed
	}
	return Withheld
}

// inOrder merges what was heard at the points. The order at each of them is certain; the
// kernel's clock, read a moment before or after, decides the rest only.
func inOrder(heard [][]*utterance) []*utterance {
	var order []*utterance
	done := make(map[*utterance]bool)
	isNext := func(u *utterance, i int) bool { return len(heard[i]) > 0 && heard[i][0] == u }
	for {
		var next *utterance
		nextReady := false
		for i := range heard {
			for len(heard[i]) > 0 && done[heard[i][0]] {
				heard[i] = heard[i][1:]
			}
		}
		for _, left := range heard {
			if len(left) == 0 {
				continue
			}
			u := left[0]
			ready := !slices.ContainsFunc(u.seen, func(i int) bool { return !isNext(u, i) })
			// None is ready where points contradict each other; then the clock decides alone.
			if next == nil || ready && !nextReady || ready == nextReady && u.time.Before(next.time) {
				next, nextReady = u, ready
			}
		}
		if next == nil {
			return order
		}
		done[next] = true
		order = append(order, next)
	}
}

// Table prints the conversation, a line for each message. Whoever calls it knows about NO_COLOR
// and terminals.
func (all Exchanges) Table(w io.Writer, color bool) error {
	p := painter(color)
	lines := [][]string{p.heading([]string{"WHO", "SAYS", "TO", ""})}
	for _, e := range all {
		fate := string(e.Fate)
		if e.Fate == Suppressed {
			fate = p.paint(fate, "1;33") // bold yellow
		}
		lines = append(lines, []string{e.From, e.sentence(), e.To, fate})
	}
	_, err := io.WriteString(w, align(lines))
	return err
}

func (e Exchange) sentence() string {
	switch e.Says {
	case Asks:
		return "who has " + e.Target.String() + ", tell " + e.Sender.String()
	case Probes:
		return "is " + e.Target.String() + " free?"
	case Announces:
		return e.Target.String() + " is at " + e.MAC.String() + ", unasked"
	}
	return e.Target.String() + " is at " + e.MAC.String()
}
