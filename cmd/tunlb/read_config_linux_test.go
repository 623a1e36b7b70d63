package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestReloadLarge: a file that another process has to read is put into force, and one that is hostile is refused with its place.
func TestReloadLarge(t *testing.T) {
	needLab(t)
}
