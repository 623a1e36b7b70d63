package watch

import (
	"net/netip"
	"testing"
)

// journey is a record that has everything.
func journey() *Record {
	return &Record{
		In: &Frame{Port: "outer"}, Out: []Frame{{Port: "inner"}, {Port: "third"}}, Drop: "no-server", Protocol: "tcp",
		Client: netip.MustParseAddrPort("198.51.100.7:40000"), VIP: netip.MustParseAddrPort("[2001:db8::22]:80"),
		Flow: 1, Server: netip.MustParseAddrPort("192.168.0.10:8080"), Service: "web", ServerName: "rs1",
	}
}

func TestMatch(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                       true,
		"client 198.51.100.0/24":                 true,
		"client 198.51.100.7:40000":              true,
		"client :40000":                          true,
		"client 198.51.100.7:40001":              false,
		"client 198.51.100.8":                    false,
		"vip 2001:db8::22":                       true,
		"vip [2001:db8::22]:80/tcp":              true,
		"vip [2001:db8::22]:80/udp":              false,
		"vip 198.51.100.7":                       false,
		"server rs1":                             true,
		"server 192.168.0.10":                    true,
		"server 192.168.0.10:8080":               true,
		"server 192.168.0.10:80":                 false,
		"server rs2":                             false,
		"service web":                            true,
		"service we":                             false,
		"port outer":                             true,
		"port inner":                             true,
		"port third":                             true,
		"port fourth":                            false,
		"drops":                                  true,
		"drop no-server":                         true,
		"drop land":                              false,
		"client :40000 vip :80 server rs1 drops": true,
		"client :40000 vip :80 server rs1 and drop land": false,
	} {
		f, err := ParseFilter(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Match(journey()); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	f := Filter{Server: "192.168.0.10"}
	if f.Match(&Record{}) || !(&Filter{}).Match(&Record{}) {
		t.Error("a record without a server is of none")
	}
	if f := (Filter{Drops: true}); f.Match(&Record{}) {
		t.Error("what was not dropped is no drop")
	}
}

// TestMatchAllocates: it runs beside the packets.
func TestMatchAllocates(t *testing.T) {
	r := journey()
	for _, f := range []Filter{{Server: "192.168.0.10:8080"}, {Server: "192.168.0.10"}, {Server: "192.168.0.11", Service: "web"}, {Port: "third"}} {
		if n := testing.AllocsPerRun(100, func() { f.Match(r) }); n != 0 {
			t.Errorf("%v: %v allocations", f, n)
		}
	}
}
