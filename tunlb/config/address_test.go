package config

import "testing"

func TestPeer(t *testing.T) {
	tests := []struct{ own, want string }{
		{"10.0.0.1/30", "10.0.0.2"}, {"10.0.0.2/30", "10.0.0.1"}, {"10.0.0.0/30", ""}, {"10.0.0.3/30", ""},
		{"10.0.0.0/31", "10.0.0.1"}, {"10.0.0.1/31", "10.0.0.0"}, {"10.0.0.1/29", ""}, {"10.0.0.1/32", ""},
		{"fd00::1/126", "fd00::2"}, {"fd00::2/126", "fd00::1"}, {"fd00::3/126", ""}, {"fd00::/127", "fd00::1"}, {"fd00::1/127", "fd00::"}, {"fd00::1/64", ""},
	}
	for _, tt := range tests {
		got, ok := peer(pfx(tt.own))
		if ok != (tt.want != "") || ok && got != adr(tt.want) {
			t.Errorf("peer(%s) = %v %v, want %q", tt.own, got, ok, tt.want)
		}
	}
}
