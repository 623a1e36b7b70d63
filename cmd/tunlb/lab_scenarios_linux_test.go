package main

import (
	"testing"

	"github.com/tunlb/tunlb/labnet/namespaces"
	"github.com/tunlb/tunlb/labnet/scenario"
)

// TestScenariosNetns runs the same files in the kernel's network namespaces, with the real program.
func TestScenariosNetns(t *testing.T) {
	needLab(t)
	t.Setenv(asProgram, "1") // the director runs this program again
	for _, name := range scenario.Shipped() {
		t.Run(name, func(t *testing.T) { playScenario(t, namespaces.Driver{}, load(t, name)) })
	}
}
