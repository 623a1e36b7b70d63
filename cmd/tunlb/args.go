package main

import (
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst puts a command's options in front of its arguments, where package cli looks for them: people write
// `tunlb drain rs1 --wait`. args begins with the program's name.
func flagsFirst(commands []*cli.Command, args []string) []string {
	var command *cli.Command
	at := 1
	for ; at < len(args); at++ {
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[at]) })
		if i < 0 {
			break
		}
		command = commands[i]
		commands = command.Subcommands
	}
	if command == nil || command.SkipFlagParsing {
		return args
	}
	var options, arguments []string
	rest := args[at:]
	for i := 0; i < len(rest); i++ {
		arg := rest[i]
		switch _, err := strconv.ParseFloat(arg, 64); {
		case arg == "--":
			arguments = append(arguments, rest[i+1:]...)
			i = len(rest)
		case err == nil || len(arg) < 2 || arg[0] != '-': // a number below zero is none, and "-" is a file
			arguments = append(arguments, arg)
		default:
			options = append(options, arg)
			if takesValue(command, arg) && i+1 < len(rest) {
				i++
				options = append(options, rest[i])
			}
		}
	}
	if len(arguments) > 0 {
		options = append(append(options, "--"), arguments...)
	}
	return append(slices.Clone(args[:at]), options...)
}

// takesValue says whether an option's value is the next argument.
func takesValue(c *cli.Command, option string) bool {
	name := strings.TrimLeft(option, "-")
	for _, f := range c.Flags {
		if _, isBool := f.(*cli.BoolFlag); slices.Contains(f.Names(), name) {
			return !isBool
		}
	}
	return false
}
