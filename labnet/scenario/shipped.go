package scenario

import (
	"embed"
	"io/fs"
	"path"
	"slices"
	"strings"
)

//go:embed shipped/*.yaml
var shippedFiles embed.FS

// Shipped are the names of the labs that come with tunlb.
func Shipped() (names []string) {
	files, _ := fs.Glob(shippedFiles, "shipped/*.yaml") // the pattern is right
	for _, f := range files {
		names = append(names, strings.TrimSuffix(path.Base(f), ".yaml"))
	}
	slices.Sort(names)
	return names
}

// shippedText is the file of one of them, with or without .yaml.
func shippedText(name string) ([]byte, bool) {
	text, err := shippedFiles.ReadFile("shipped/" + strings.TrimSuffix(name, ".yaml") + ".yaml")
	return text, err == nil
}
