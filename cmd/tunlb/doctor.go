package main

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"github.com/tunlb/tunlb/tunlb/doctor"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "find what is wrong with a setup, and how to mend it; changes nothing",
		Description: "Looks at the configuration, the running daemon and this machine's kernel. Without -f it takes the\n" +
			"daemon's own file; with -f it works before the first start, too. The only packets that it sends are\n" +
			"one TCP connection, closed at once, to each server of a nat service and to the endpoint of metrics.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "configuration `FILE`, instead of the running daemon's"},
			socketFlag(), outputFlag(),
		},
		Action: func(c *cli.Context) error {
			asJSON, err := asJSON(c)
			if err != nil {
				return err
			}
			report, err := doctor.Examine(c.Context, doctor.Options{File: c.String("file"), Client: client(c), Version: version()})
			switch {
			case errors.Is(err, doctor.ErrUnsupported):
				return cannotExamine(c, err)
			case err != nil:
				return showConfigErrors(c, err)
			case asJSON:
				err = writeJSON(c.App.Writer, report)
			default:
				err = showFindings(c.App.Writer, report)
			}
			switch {
			case err != nil:
				return err
			case report.Cannot():
				return cli.Exit(errReported, exitCannot)
			case report.Count(doctor.Fail) > 0:
				return errReported
			}
			return nil
		},
	}
}

// cannotExamine says what would be looked at elsewhere.
func cannotExamine(c *cli.Context, err error) error {
	fmt.Fprintln(c.App.ErrWriter, "tunlb:", err)
	fmt.Fprintln(c.App.ErrWriter, "On Linux it checks that")
	for _, check := range doctor.Checks() {
		fmt.Fprintf(c.App.ErrWriter, "  %-10s %s\n", check.Name, check.What)
	}
	return cli.Exit(errReported, exitCannot)
}

// severityColours are SGR parameters.
var severityColours = map[doctor.Severity]string{doctor.OK: "32", doctor.Note: "36", doctor.Warn: "33", doctor.Fail: "31"}

// showFindings prints a line for each, and its fix below so that the line can be copied whole.
func showFindings(w io.Writer, r doctor.Report) error {
	check, subject := 0, 0
	for _, f := range r.Findings {
		check, subject = max(check, len(f.Check)), max(subject, min(utf8.RuneCountInString(f.Subject), 32))
	}
	colour := colours(w)
	for _, f := range r.Findings {
		severity := fmt.Sprintf("%-4s", f.Severity)
		if colour {
			severity = fmt.Sprintf("\x1b[%sm%s\x1b[m", severityColours[f.Severity], severity)
		}
		fmt.Fprintf(w, "%s  %-*s  %-*s  %s\n", severity, check, f.Check, subject, f.Subject, f.Text)
		if f.Fix != "" {
			fmt.Fprintf(w, "      fix: %s\n", f.Fix)
		}
	}
	_, err := fmt.Fprintf(w, "\n%d failed, %s, %s\n", r.Count(doctor.Fail), count(r.Count(doctor.Warn), "warning"), count(r.Count(doctor.Note), "note"))
	return err
}
