package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb/config"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "say everything that is wrong with a configuration file",
		ArgsUsage: "FILE",
		Flags:     []cli.Flag{fileFlag()},
		Action: func(c *cli.Context) error {
			file, err := fileOf(c)
			if err != nil {
				return err
			}
			cfg, err := config.Load(file)
			if err != nil {
				return showConfigErrors(c, err)
			}
			fmt.Fprintf(c.App.Writer, "%s: ok, %s, %s\n", file,
				count(len(cfg.Ports), "port"), count(len(cfg.Services), "service"))
			return nil
		},
	}
}

func fileFlag() cli.Flag {
	return &cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "configuration `FILE`; the name alone will do"}
}

// fileOf is the file that a command is about, with or without -f.
func fileOf(c *cli.Context) (string, error) {
	files := c.Args().Slice()
	if f := c.String("file"); f != "" {
		files = append(files, f)
	}
	if len(files) != 1 || files[0] == "" {
		return "", usagef("%s wants one file: tunlb %[1]s -f FILE", c.Command.Name)
	}
	return files[0], nil
}

// showConfigErrors prints a file's errors one a line, as compilers do, without a prefix that would
// keep editors from jumping to them.
func showConfigErrors(c *cli.Context, err error) error {
	if exitCode(err) != exitConfig {
		return err
	}
	fmt.Fprintln(c.App.ErrWriter, err)
	return fmt.Errorf("%w: %w", errReported, err)
}

// loadNamed reads the file of --config. usage is how a command is told of one.
func loadNamed(c *cli.Context, usage string) (*config.Config, error) {
	cfg, err := config.Load(c.String("config"))
	var missing *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.As(err, &missing):
		return nil, fmt.Errorf("read the configuration: %w; name the file: %s", missing, usage)
	case err != nil:
		return nil, showConfigErrors(c, err)
	}
	return cfg, nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
