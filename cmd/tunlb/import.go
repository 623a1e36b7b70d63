package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb/importer"
	"github.com/tunlb/tunlb/tunlb/keepalived"
)

func importCommand() *cli.Command {
	return &cli.Command{
		Name:  "import",
		Usage: "print the configuration that does what another program's file does, with a comment for what has no counterpart",
		Subcommands: []*cli.Command{
			{
				Name:      "ipvsadm-save",
				Usage:     "read what `ipvsadm-save` has printed",
				ArgsUsage: "FILE (- for the standard input)",
				Action: func(c *cli.Context) error {
					_, f, err := imported(c)
					if err != nil {
						return err
					}
					defer f.Close()
					text, err := importer.IPVSADM(f, systemNames(c.Context))
					return printImported(c, text, err)
				},
			},
			{
				Name:      "keepalived",
				Usage:     "read a keepalived.conf, and the files that it includes",
				ArgsUsage: "FILE (- for the standard input)",
				Action: func(c *cli.Context) error {
					name, f, err := imported(c)
					if err != nil {
						return err
					}
					defer f.Close()
					text, err := readImported(name, f)
					if err != nil {
						return err
					}
					text, err = importer.Keepalived(keepalived.Source{Name: name, Text: text}, included)
					return printImported(c, text, err)
				},
			},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("no import of %q; there are ipvsadm-save and keepalived", c.Args().First())
			}
			return usagef("import wants to know what: tunlb import ipvsadm-save FILE, or tunlb import keepalived FILE")
		},
	}
}

// imported opens the one file that an import is of.
func imported(c *cli.Context) (name string, f io.ReadCloser, err error) {
	if c.NArg() != 1 || c.Args().First() == "" {
		return "", nil, usagef("%s wants one file, or - for the standard input", c.Command.HelpName)
	}
	if name = c.Args().First(); name == "-" {
		return "stdin", io.NopCloser(c.App.Reader), nil
	}
	f, err = os.Open(name)
	return name, f, err
}

// maxImported bounds a file: configurations are written by people.
const maxImported = 64 << 20

func readImported(name string, r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxImported+1))
	if err == nil && len(text) > maxImported {
		err = fmt.Errorf("%s is longer than %d MiB: is it the right file?", name, maxImported>>20)
	}
	return text, err
}

// included finds files as keepalived does: a pattern is relative to the file that it is in.
func included(from, pattern string) ([]keepalived.Source, error) {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(from), pattern)
	}
	names, err := filepath.Glob(pattern)
	if err != nil {
		return nil, fmt.Errorf("include %s: %w", pattern, err)
	}
	var sources []keepalived.Source
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		text, err := readImported(name, f)
		f.Close()
		if err != nil {
			return nil, err
		}
		sources = append(sources, keepalived.Source{Name: name, Text: text})
	}
	return sources, nil
}

func printImported(c *cli.Context, text []byte, err error) error {
	if err != nil {
		return err
	}
	if w := importer.Warning(text); w != "" {
		fmt.Fprintln(c.App.ErrWriter, "WARNING: "+w)
	}
	_, err = c.App.Writer.Write(text)
	return err
}
