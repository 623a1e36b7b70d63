package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/tunlb/tunlb/tunlb"
	"github.com/tunlb/tunlb/tunlb/watch"
)

// TestUnknownNames: a name that nothing has is told of with a near one, a number of a port with what it is written as.
func TestUnknownNames(t *testing.T) {
	s := &tunlb.Status{
		Services: []tunlb.ServiceStatus{{Name: "web", Servers: []tunlb.ServerStatus{{Name: "rs1", Address: netip.MustParseAddrPort("192.168.0.10:8080")}}}},
		Ports:    []tunlb.PortStatus{{Name: "tunlb0"}},
	}
	for filter, want := range map[string]string{
		"server rs1 service web port tunlb0": "", "server 192.168.0.10": "", "server 192.168.0.10:8080": "", "drops": "",
		"server rs9":           `tunlb has no server "rs9" now; did you mean rs1?`,
		"server 192.168.0.99":  `tunlb has no server "192.168.0.99" now`,
		"service wbe":          `tunlb has no service "wbe" now`,
		"service we":           `tunlb has no service "we" now; did you mean web?`,
		"port tunlb1":          `tunlb has no port "tunlb1" now; did you mean tunlb0?`,
		"port 80":              "write: vip :80",
		"server 192.168.0.9:1": `tunlb has no server`,
	} {
		f, err := watch.ParseFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		got := unknownNames(s, f)
		if want == "" && got != nil || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
			t.Errorf("%s: %q, want %q", filter, got, want)
		}
	}
	s.Gateways = append(s.Gateways, tunlb.GatewayStatus{})
	if got := unknownNames(s, watch.Filter{Server: "203.0.113.9"}); got != nil {
		t.Errorf("the other end of a gateway's connection: %q", got)
	}
}

// TestVIPWithoutBrackets: what was meant is what is advised.
func TestVIPWithoutBrackets(t *testing.T) {
	for vip, want := range map[string]string{
		"2001:db8:113::22:80":    "write [2001:db8:113::22]:80",
		"2001:db8:1:2:3:4:5:6:7": "write [2001:db8:1:2:3:4:5:6]:7",
		"2001:db8::22":           "write [2001:db8::22]:80",
		"203.0.113.22":           "write 203.0.113.22:80",
	} {
		if _, _, err := vipAddress(vip); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", vip, err, want)
		}
	}
}

// TestOfflineQuestions: what is wrong is said in terms of the command that was given.
func TestOfflineQuestions(t *testing.T) {
	asked := []string{"--client", "198.51.100.7", "--vip", "203.0.113.22:80"}
	for _, test := range []struct {
		args []string
		exit int
		want string
	}{
		{append([]string{"explain", "--config", "/nowhere.yaml"}, asked...), exitFailed, "/nowhere.yaml: no such file or directory; name the file: tunlb explain --config FILE\n"},
		{[]string{"replay", "x.pcap", "--config", "/nowhere.yaml"}, exitFailed, "name the file: tunlb replay CAPTURE --config FILE\n"},
		{append([]string{"explain", "--without", "rs1", "--weight", "rs1=5"}, asked...), exitUsage, `"rs1" is to be left out, and to have a weight`},
	} {
		var out, errOut bytes.Buffer
		code := run(append([]string{"tunlb"}, test.args...), strings.NewReader(""), &out, &errOut)
		if text := errOut.String(); code != test.exit || !strings.Contains(text, test.want) || strings.Contains(text, "no such server") {
			t.Errorf("%q: exit %d: %s", test.args, code, text)
		}
	}
}
