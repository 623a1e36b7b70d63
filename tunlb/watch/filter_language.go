package watch

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tunlb/tunlb/stack/packet"
	"github.com/tunlb/tunlb/tunlb/config/wording"
)

// FilterSyntax is the filter's language for the help of commands.
const FilterSyntax = `FILTER is any of these, all of which have to hold; "and" between them is optional:
   client ADDR|NETWORK[:PORT]    vip ADDR|NETWORK[:PORT][/PROTO]    (IPv6 with a port: [2001:db8::1]:80; any address: :80)
   server NAME|ADDR[:PORT]       service NAME                       port NAME
   proto tcp|udp|icmp|arp|NUMBER drops                              drop REASON
A name that is no plain word, or that is a word of this language, is put in double quotes.`

// FilterError is what is wrong with a filter's text, and where.
type FilterError struct {
	Line, Column int // from 1, in characters
	Message      string
}

func (e *FilterError) Error() string {
	return fmt.Sprintf("filter:%d:%d: %s", e.Line, e.Column, e.Message)
}

// Keywords of the language. and is optional between two conditions.
const (
	keyClient  = "client"
	keyVIP     = "vip"
	keyServer  = "server"
	keyService = "service"
	keyProto   = "proto"
	keyPort    = "port"
	keyDrops   = "drops"
	keyDrop    = "drop"
	keyAnd     = "and"
)

func keywords() []string {
	return []string{keyClient, keyVIP, keyServer, keyService, keyProto, keyPort, keyDrops, keyDrop, keyAnd}
}

// examples are what may follow a keyword.
var examples = map[string]string{
	keyClient:  "an address or a network, and a port if you like: client 198.51.100.7, client 198.51.100.0/24, client [2001:db8::7]:40000",
	keyVIP:     "an address, and a port and a protocol if you like: vip 203.0.113.22, vip 203.0.113.22:80/tcp, vip [2001:db8::22]:80",
	keyServer:  "a name, an address, or address:port: server rs1, server 192.168.0.10:8080",
	keyService: "a name: service web",
	keyProto:   "tcp, udp, icmp, arp, or the number of an IP protocol: proto tcp",
	keyPort:    "the name of one of tunlb's ports: port tunlb0",
	keyDrop:    "a reason, as `tunlb status` lists them: drop no-server; all of them are: drops",
}

// ParseFilter reads the filter's language. Its errors are *FilterError. An empty text is the zero Filter.
func ParseFilter(text string) (Filter, error) {
	words, err := split(text)
	if err != nil {
		return Filter{}, err
	}
	var f Filter
	joined := false // the last word is an "and"
	for i := 0; i < len(words); i++ {
		w := words[i]
		key := w.text
		switch {
		case w.quoted:
			return Filter{}, w.errorf("%q is a value, and no keyword stands before it; write for instance: service %[1]q", w.text)
		case key == keyAnd && (i == 0 || joined):
			return Filter{}, w.errorf("%q joins two conditions, and there is none before it; leave it out", keyAnd)
		case key == keyAnd:
			joined = true
			continue
		case !slices.Contains(keywords(), key):
			return Filter{}, w.errorf("%s", unknownWord(w.text))
		}
		joined = false
		value := ""
		if key != keyDrops {
			if i++; i == len(words) {
				return Filter{}, w.errorf("%q stands alone; write after it %s", key, examples[key])
			}
			if v := words[i]; !v.quoted && slices.Contains(keywords(), v.text) {
				return Filter{}, v.errorf("%q is a keyword, and %q wants its value first; write %s; a name that is a keyword goes into quotes: %[2]s %[1]q",
					v.text, key, examples[key])
			}
			w, value = words[i], words[i].text
		}
		if err := f.Set(key, value); err != nil {
			return Filter{}, w.errorf("%w", err)
		}
		if w.quoted && key == keyServer {
			f.Server = value // a name, even if it looks like an address
		}
	}
	if last := len(words) - 1; joined {
		return Filter{}, words[last].errorf("%q joins two conditions, and there is none behind it; leave it out", keyAnd)
	}
	return f, nil
}

// Set adds one condition, as the language has it: Set("client", "198.51.100.7"), Set("drops", ""). A condition that
// there is already is an error. The value has no quotes.
func (f *Filter) Set(keyword, value string) (err error) {
	if value == "" && keyword != keyDrops {
		return fmt.Errorf("%s is given nothing, which would mean all; leave it out, or write after it %s", keyword, examples[keyword])
	}
	g := *f
	switch keyword {
	case keyClient:
		g.Client, err = parseEndpoint(keyClient, value)
		err = once(err, f.Client != Endpoint{}, keyClient)
	case keyVIP:
		err = g.setVIP(value)
		err = once(err, f.VIP != Endpoint{}, keyVIP)
	case keyServer:
		g.Server, err = plainServer(value), once(nil, f.Server != "", keyServer)
	case keyService:
		g.Service, err = value, once(nil, f.Service != "", keyService)
	case keyPort:
		g.Port, err = value, once(nil, f.Port != "", keyPort)
	case keyProto:
		err = g.setProtocol(value)
	case keyDrops:
		if g.Drops = true; f.Drops {
			err = errors.New("drops is said twice")
		}
	case keyDrop:
		g.Reason, err = value, once(checkReason(value), f.Reason != "", keyDrop)
	default:
		err = fmt.Errorf("%s", unknownWord(keyword))
	}
	if err == nil {
		*f = g
	}
	return err
}

// once is err, or that something is said twice.
func once(err error, twice bool, keyword string) error {
	if err == nil && twice {
		return fmt.Errorf("%s is said twice, and no packet is of both; leave one out", keyword)
	}
	return err
}

func (f *Filter) setVIP(value string) (err error) {
	place := value
	// 203.0.113.0/24 has a slash, too, but digits behind it.
	if i := strings.LastIndexByte(value, '/'); i >= 0 && i+1 < len(value) && !strings.ContainsAny(value[i+1:], "0123456789]") {
		if place = value[:i]; place == "" {
			return fmt.Errorf("%q has no address; write %s, or: proto %s", value, examples[keyVIP], value[1:])
		}
		if err := f.setProtocol(value[i+1:]); err != nil {
			return err
		}
	}
	f.VIP, err = parseEndpoint(keyVIP, place)
	return err
}

func (f *Filter) setProtocol(value string) error {
	proto := strings.ToLower(value)
	switch known := []string{"tcp", "udp", "icmp", "arp"}; {
	case slices.Contains(known, proto):
	case proto == "icmpv6", proto == "icmp6", proto == "ipv6-icmp":
		return fmt.Errorf("proto %q: ICMP is one word for both families; write proto icmp", value)
	default:
		n, err := strconv.ParseUint(proto, 10, 8)
		if err != nil {
			return fmt.Errorf("proto %q is none; %s", value, suggest(proto, known))
		}
		switch uint8(n) {
		case packet.ProtoTCP:
			proto = "tcp"
		case packet.ProtoUDP:
			proto = "udp"
		case packet.ProtoICMP, packet.ProtoICMPv6:
			proto = "icmp"
		default:
			proto = strconv.FormatUint(n, 10)
		}
	}
	if f.Protocol != "" {
		return once(nil, true, keyProto)
	}
	f.Protocol = proto
	return nil
}

func checkReason(value string) error {
	var known []string
	for _, r := range packet.Reasons() {
		known = append(known, r.String())
	}
	if slices.Contains(known, value) {
		return nil
	}
	if near := wording.Nearest(value, known); near != "" {
		return fmt.Errorf("drop %q: nothing is dropped for that reason; write drop %s", value, near)
	}
	return fmt.Errorf("drop %q: nothing is dropped for that reason; write one that `tunlb status` lists, such as drop no-server, or for all of them: drops", value)
}

func unknownWord(word string) string {
	_, errAddr := netip.ParseAddr(word)
	_, errPort := netip.ParseAddrPort(word)
	_, errPrefix := netip.ParsePrefix(word)
	if errAddr == nil || errPort == nil || errPrefix == nil {
		return fmt.Sprintf("%q is an address, and no keyword says whose; write client %[1]s, vip %[1]s or server %[1]s", word)
	}
	return fmt.Sprintf("%s is no keyword; %s", quote(word), suggest(word, keywords()))
}

// parseEndpoint reads ADDR, NETWORK, ADDR:PORT, NETWORK:PORT or :PORT; an IPv6 address or network in front of a port
// is in brackets.
func parseEndpoint(keyword, text string) (e Endpoint, err error) {
	place, port, hasPort := text, "", false
	switch {
	case strings.HasPrefix(text, "["):
		end := strings.IndexByte(text, ']')
		if end < 0 {
			return e, fmt.Errorf("%s %q has a bracket that is not closed; write [2001:db8::1]:80", keyword, text)
		}
		place = text[1:end]
		if rest := text[end+1:]; rest != "" {
			if port, hasPort = strings.CutPrefix(rest, ":"); !hasPort {
				return e, fmt.Errorf("%s %q has %q behind the bracket, where a port should be; write [%s]:80", keyword, text, rest, place)
			}
		}
		if !strings.Contains(place, ":") {
			return e, fmt.Errorf("%s %q has no IPv6 address in its brackets; write %s", keyword, text, examples[keyword])
		}
	case strings.Count(text, ":") == 1: // two or more are an IPv6 address
		place, port, hasPort = strings.Cut(text, ":")
	}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return e, fmt.Errorf("%s %q: %q is no port; write a number from 1 to 65535", keyword, text, port)
		}
		e.Port = uint16(n)
		if place == "" {
			return e, nil
		}
	}
	e.Network, err = parseNetwork(place)
	if err != nil {
		return Endpoint{}, fmt.Errorf("%s %q: %w; write %s", keyword, text, err, examples[keyword])
	}
	return e, nil
}

// parseNetwork reads an address or a network, and makes IPv4 in IPv6's clothes plain IPv4, as packets have it.
func parseNetwork(text string) (netip.Prefix, error) {
	if strings.Contains(text, "%") {
		return netip.Prefix{}, fmt.Errorf("packets have no zone; leave out %q", text[strings.IndexByte(text, '%'):])
	}
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil && strings.Contains(text, "/"):
		return netip.Prefix{}, fmt.Errorf("%s is no network", quote(text))
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%s is no address", quote(text))
	case p.Addr().Is4In6() && p.Bits() >= 96:
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// plainServer spells an address as records do; a name stays.
func plainServer(text string) string {
	if at, err := netip.ParseAddrPort(text); err == nil {
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()).String()
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Unmap().String()
	}
	return text
}

// String is the filter in its language, "" for the zero value: ParseFilter's inverse.
func (f Filter) String() string {
	var words []string
	add := func(key, value string) {
		if value != "" {
			words = append(words, key+" "+value)
		}
	}
	add(keyClient, f.Client.String())
	add(keyVIP, f.VIP.String())
	server := word(f.Server)
	if plainServer(f.Server) != f.Server {
		server = strconv.Quote(f.Server)
	}
	add(keyServer, server)
	add(keyService, word(f.Service))
	add(keyProto, f.Protocol)
	add(keyPort, word(f.Port))
	if f.Drops {
		words = append(words, keyDrops)
	}
	add(keyDrop, f.Reason)
	return strings.Join(words, " and ")
}

// String is the endpoint in the filter's language, "" if it is any.
func (e Endpoint) String() string {
	place := ""
	if e.Network.IsValid() {
		place = e.Network.String()
		if e.Network.IsSingleIP() {
			place = e.Network.Addr().String()
		}
	}
	switch {
	case e.Port == 0:
		return place
	case strings.Contains(place, ":"):
		place = "[" + place + "]"
	}
	return place + ":" + strconv.Itoa(int(e.Port))
}

// word is a name as it is written in the language: in quotes where it would not be read as it is.
func word(name string) string {
	if name == "" || isPlain(name) && !slices.Contains(keywords(), name) {
		return name
	}
	return strconv.Quote(name)
}

func isPlain(name string) bool {
	return utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return r == '"' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	})
}

// token is a word, and where it begins.
type token struct {
	text         string
	quoted       bool
	line, column int
}

func (w token) errorf(format string, args ...any) error {
	return &FilterError{w.line, w.column, fmt.Errorf(format, args...).Error()}
}

// split cuts a text into words at blanks; a word in double quotes may have any character, as in Go.
func split(text string) (words []token, err error) {
	line, column := 1, 1
	for text != "" {
		r, size := utf8.DecodeRuneInString(text)
		if unicode.IsSpace(r) {
			if column++; r == '\n' {
				line, column = line+1, 1
			}
			text = text[size:]
			continue
		}
		w := token{line: line, column: column}
		var length int
		if r == '"' {
			prefix, err := strconv.QuotedPrefix(text)
			if err != nil {
				return nil, w.errorf("the quotes are not closed, or have something between them that Go's strings don't; write \" at the end of the name, and \\\" for one in it")
			}
			w.text, _ = strconv.Unquote(prefix)
			w.quoted, length = true, len(prefix)
			if next, _ := utf8.DecodeRuneInString(text[length:]); length < len(text) && !unicode.IsSpace(next) {
				return nil, w.errorf("the name in quotes goes on behind them; put a blank there, or all of it into the quotes")
			}
		} else if length = strings.IndexFunc(text, unicode.IsSpace); length < 0 {
			length = len(text)
		}
		if !w.quoted {
			w.text = text[:length]
		}
		words = append(words, w)
		column += utf8.RuneCountInString(text[:length])
		text = text[length:]
	}
	return words, nil
}
