package health

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tunlb/tunlb/policy"
)

// resolver answers as another implementation of the format does, with an answer for www.example only.
func resolver(t *testing.T, rcode dnsmessage.RCode) func([]byte) [][]byte {
	return func(query []byte) [][]byte {
		var m dnsmessage.Message
		if err := m.Unpack(query); err != nil {
			t.Errorf("query %x: %v", query, err)
			return nil
		}
		if m.Response || !m.RecursionDesired || len(m.Questions) != 1 || m.Questions[0].Class != dnsmessage.ClassINET {
			t.Errorf("query: got %+v", m)
		}
		m.Response, m.RCode = true, rcode
		q := m.Questions[0]
		if q.Name.String() == "www.example." && q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
				Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}},
			}}
		}
		b, err := m.Pack()
		if err != nil {
			t.Error(err)
		}
		return [][]byte{b}
	}
}

func TestDNS(t *testing.T) {
	good := resolver(t, dnsmessage.RCodeSuccess)
	// change answers with what f makes of a good answer.
	change := func(f func(b []byte) []byte) func([]byte) [][]byte {
		return func(q []byte) [][]byte { return [][]byte{f(good(q)[0])} }
	}
	wrongID := change(func(b []byte) []byte { b[0]++; return b })
	for _, test := range []struct {
		name   string
		answer func([]byte) [][]byte // nil: nothing listens
		health policy.Health
		want   string
	}{
		{"record", good, policy.Health{Query: "www.example", Record: "A"}, ""},
		{"absolute name, small letters", good, policy.Health{Query: "www.example.", Record: "a"}, ""},
		{"no such record", good, policy.Health{Query: "www.example", Record: "AAAA"}, ""},
		{"default", good, policy.Health{}, ""},
		{"no such name", resolver(t, dnsmessage.RCodeNameError), policy.Health{}, "rcode NXDOMAIN, want NOERROR"},
		{"failed", resolver(t, dnsmessage.RCodeServerFailure), policy.Health{}, "rcode SERVFAIL, want NOERROR"},
		{"refused, question left out", change(func(b []byte) []byte { b[3], b[5] = b[3]|5, 0; return b[:dnsHeader] }), policy.Health{}, "rcode REFUSED, want NOERROR"},
		{"unknown rcode", resolver(t, 13), policy.Health{}, "rcode 13, want NOERROR"},
		{"other case", change(func(b []byte) []byte { return append(b[:dnsHeader:dnsHeader], bytes.ToUpper(b[dnsHeader:])...) }), policy.Health{Query: "www.example", Record: "TXT"}, ""},
		{"closed", nil, policy.Health{}, "port unreachable"},
		{"mute", func([]byte) [][]byte { return nil }, policy.Health{Timeout: short}, "no answer in 50ms"},
		{"wrong id", wrongID, policy.Health{Timeout: short}, "no answer in 50ms, but 1 to other queries"},
		{"wrong id, then right", func(q []byte) [][]byte { return append(wrongID(q), good(q)...) }, policy.Health{}, ""},
		{"wrong id for ever", func(q []byte) [][]byte { return slices.Repeat(wrongID(q), maxForeign) }, policy.Health{}, "answers to other queries only"},
		{"question left out", change(func(b []byte) []byte { b[5] = 0; return b[:dnsHeader] }), policy.Health{Timeout: short}, "no answer in 50ms, but 1 to other queries"},
		{"another question", change(func(b []byte) []byte { b[dnsHeader+1]++; return b }), policy.Health{Query: "www.example", Timeout: short}, "no answer in 50ms, but 1 to other queries"},
		{"another type", change(func(b []byte) []byte { b[dnsHeader+2]++; return b }), policy.Health{Timeout: short}, "no answer in 50ms, but 1 to other queries"},
		{"the query itself", func(q []byte) [][]byte { return [][]byte{q} }, policy.Health{Timeout: short}, "no answer in 50ms, but 1 to other queries"},
		{"short", change(func(b []byte) []byte { return b[:dnsHeader-1] }), policy.Health{Timeout: short}, "no answer in 50ms, but 1 to other queries"},
		{"cut", change(func(b []byte) []byte { return b[:dnsHeader+2] }), policy.Health{Timeout: short}, "no answer in 50ms, but 1 to other queries"},
		{"no record", good, policy.Health{Record: "WKS"}, `unknown type of record "WKS"`},
		{"empty label", good, policy.Health{Query: "www..example"}, `name "www..example": labels have 1 to 63 bytes`},
		{"long name", good, policy.Health{Query: strings.Repeat("a.", 127) + "a"}, `name "` + strings.Repeat("a.", 77) + "..."},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, loopback netip.Addr) {
				at := closed(t, loopback)
				if test.answer != nil {
					at = serveUDP(t, loopback, test.answer)
				}
				test.health.Type = "dns"
				if got := once(at, test.health); got != test.want {
					t.Errorf("cause: got %q, want %q", got, test.want)
				}
			})
		})
	}
}

func TestQuestion(t *testing.T) {
	for _, test := range []struct{ name, record, want string }{
		{"", "", "00" + "0006" + "0001"},
		{".", "NS", "00" + "0002" + "0001"},
		{"www.example", "AAAA", "03777777" + "076578616d706c65" + "00" + "001c" + "0001"},
		{strings.Repeat("a.", 127), "A", strings.Repeat("0161", 127) + "00" + "0001" + "0001"}, // the longest: 255 bytes
	} {
		got, err := appendQuestion(nil, test.name, test.record)
		if hex.EncodeToString(got) != test.want || err != nil {
			t.Errorf("%q %q: got %x, %v, want %s", test.name, test.record, got, err, test.want)
		}
	}
}
