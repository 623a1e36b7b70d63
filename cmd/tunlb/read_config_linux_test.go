package main

import (
	"strings"
	"testing"

	"github.com/tunlb/tunlb/labnet"
)

// TestReloadLarge: a file that another process has to read is put into force, and one that is no configuration is refused with its
// places, at the start as well.
func TestReloadLarge(t *testing.T) {
	needLab(t)
	comment := strings.Repeat("# what a program wrote\n", 2000)
	s := openSite(t, labnet.StoryOptions{}, comment+storyConfig)
	s.write(strings.Replace(comment+storyConfig, "      - {name: rs3, address: 192.168.0.12:8080}\n", "", 1))
	if got := s.done("reload"); !strings.Contains(got, "- server web/rs3") {
		t.Errorf("reload: %s", got)
	}
	if n := len(s.status().Services[0].Servers); n != 2 {
		t.Errorf("%d servers, want 2", n)
	}
	s.write(comment + "servces: 1\n")
	if _, stderr, code := s.tunlb("reload"); code != exitConfig || !strings.Contains(stderr, ":2001:1: unknown key") {
		t.Errorf("a bad file: exit %d, %s", code, stderr)
	}
	if _, stderr, code := s.tunlb("run", "-f", s.config); code != exitConfig || !strings.Contains(stderr, ":2001:1: unknown key") {
		t.Errorf("started with a bad file: exit %d, %s", code, stderr)
	}
}
