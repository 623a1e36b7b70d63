package wording

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
		if got := Nearest(tt.word, names); got != tt.want {
			t.Errorf("Nearest(%q) = %q, want %q", tt.word, got, tt.want)
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
