package health

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tunlb/tunlb/policy"
)

func TestTargets(t *testing.T) {
	at := netip.MustParseAddrPort
	health := policy.Health{Type: "tcp", Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1}
	other, direct := health, health
	other.Port, direct.Direct = 8081, true
	type row struct{ Service, Server, Name, Address, VIP string }
	for _, test := range []struct {
		name string
		spec policy.Spec
		want []row
	}{
		{"plain", policy.Spec{Name: "web", Listen: policy.On(at("203.0.113.22:80"), policy.TCP), Health: health,
			Servers: []policy.ServerSpec{{Name: "rs1", Address: at("192.168.0.10:8080")}, {Name: "rs2", Address: at("192.168.0.11:0")}}},
			[]row{{"web", "192.168.0.10:8080", "rs1", "192.168.0.10:8080", "203.0.113.22:80"}, {"web", "192.168.0.11:0", "rs2", "192.168.0.11:80", "203.0.113.22:80"}}},
		{"v6", policy.Spec{Name: "web", Listen: policy.On(at("[2001:db8::22]:80"), policy.TCP), Health: health,
			Servers: []policy.ServerSpec{{Name: "rs1", Address: at("[fd00::10]:0")}}},
			[]row{{"web", "[fd00::10]:0", "rs1", "[fd00::10]:80", "[2001:db8::22]:80"}}},
		{"port", policy.Spec{Name: "web", Listen: policy.On(at("203.0.113.22:80"), policy.TCP), Health: other,
			Servers: []policy.ServerSpec{{Name: "rs1", Address: at("192.168.0.10:8080")}}},
			[]row{{"web", "192.168.0.10:8080", "rs1", "192.168.0.10:8081", "203.0.113.22:80"}}},
		{"direct", policy.Spec{Name: "web", Listen: policy.On(at("203.0.113.22:80"), policy.TCP), Health: direct, Mode: policy.DR,
			Servers: []policy.ServerSpec{{Name: "rs1", Address: at("192.168.0.10:0")}, {Name: "rs2", Address: at("192.168.0.11:0"), Mode: policy.NAT}}},
			[]row{{"web", "192.168.0.10:0", "rs1", "203.0.113.22:80", "203.0.113.22:80"}, {"web", "192.168.0.11:0", "rs2", "192.168.0.11:80", "203.0.113.22:80"}}},
		{"mark", policy.Spec{Name: "fw", Mark: policy.Mark{Value: 1}, Health: health,
			Servers: []policy.ServerSpec{{Name: "rs1", Address: at("192.168.0.10:0")}}},
			[]row{{"fw", "192.168.0.10:0", "rs1", "192.168.0.10:0", "invalid AddrPort"}}},
		{"unchecked", policy.Spec{Name: "web", Servers: []policy.ServerSpec{{Name: "rs1", Address: at("192.168.0.10:0")}}}, nil},
		{"no way", policy.Spec{Name: "web", Health: health, Servers: []policy.ServerSpec{{Name: "unreached", Address: at("192.168.0.10:0")}}}, nil},
	} {
		var got []row
		for _, x := range Targets([]policy.Spec{test.spec}, func(_ *policy.Spec, srv *policy.ServerSpec) Dialer {
			if srv.Name == "unreached" {
				return nil
			}
			return Kernel{}
		}) {
			got = append(got, row{x.Service, x.Server.String(), x.Name, x.Address.String(), x.VIP.String()})
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	if got, want := once(at("192.168.0.10:0"), health), "no port to check: set the check's port"; got != want {
		t.Errorf("no port: got %q, want %q", got, want)
	}
	if got, want := once(at("192.168.0.10:80"), policy.Health{Type: "smtp"}), `unknown type of check "smtp"`; got != want {
		t.Errorf("unknown type: got %q, want %q", got, want)
	}
}
