package config

import "testing"

func TestNearest(t *testing.T) {
	names := []string{"scheduler", "servers", "listen", "wlc", "max", "weight"}
	tests := []struct{ word, want string }{
		{"sheduler", "scheduler"},
		{"Scheduler", "scheduler"},
		{"server", "servers"},
		{"lisetn", "listen"},
		{"wcl", "wlc"},
		{"maximum", "max"},
		{"w", ""},
		{"we", ""},
		{"random", ""},
		{"", ""},
		{"a-very-long-word-which-nobody-can-have-meant", ""},
	}
	for _, tt := range tests {
		if got := nearest(tt.word, names); got != tt.want {
			t.Errorf("nearest(%q) = %q, want %q", tt.word, got, tt.want)
		}
	}
}

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0},
		{"abc", "acb", 1}, {"abc", "abcd", 1}, {"abc", "bc", 1}, {"abc", "xbc", 1}, {"kitten", "sitting", 3},
	}
	for _, tt := range tests {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

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
