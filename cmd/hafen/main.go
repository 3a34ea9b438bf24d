// Command hafen is a gateway for browser video calls in restrictive enterprise networks: one program on port 443 that
// carries HTTPS, WebSocket and long-poll signaling, TURN and a CONNECT proxy, and says plainly what is wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"hafen/gateway"
)

// version is set by the linker.
var version = "dev"

func main() {
	if program, err := os.Executable(); err == nil {
		if code, is := gateway.Step(program, os.Args, os.Environ()); is {
			os.Exit(code)
		}
	}
	os.Exit(run(context.Background(), world{args: os.Args[1:], environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}))
}

// world is what the program sees of its surroundings; tests give another one.
type world struct {
	args    []string
	environ []string
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
}

// Exit codes, promised to scripts.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// errUsage marks an error of the command line: exit code 2.
var errUsage = errors.New("usage")

const usage = `hafen: a gateway for browser video calls where only port 443 is open

  hafen serve   [--config FILE]           run the gateway; default ./hafen.yaml, then /etc/hafen/hafen.yaml
  hafen demo    [--listen ADDR]           gateway and stand-in cloud on this machine, nothing to configure
  hafen cloud   [--config FILE]           the stand-in cloud alone, for laboratories and training
  hafen check   [--config FILE] [--against-running]   every problem of a configuration, a line each; what a reload would change
  hafen config  default|schema|show       the commented default; the JSON Schema; the effective one, secrets masked
  hafen doctor  [--config FILE] [--json]  what must work on this machine and towards the cloud, and the fix
  hafen status  [--json|--nagios]         the running gateway
  hafen reload  [--follow|--upgrade]      read the configuration again; a bad one changes nothing and says why
  hafen drain   [--wait 1h]               end the running gateway when its live sessions have ended
  hafen drill region SERVICE/REGION [--for 2m]   keep new sessions away from a region, and report what browsers did
  hafen audit   [--from DAY] [--to DAY] [--json]   what an auditor asks for, in one file
  hafen explain CODE                      both sides of one precall test: what the page measured, what the gateway saw
  hafen pac     [--url URL] [--client IP] [--snippet] [--verify FILE|URL]   the PAC file; what it answers; the lines for the
                                          company's own PAC file; does that one reach us for every service host
  hafen firewall [--csv|--ticket|--json] [--diff OLD.json]   the rule sheet for the firewall team
  hafen ca                                the root of the self-signed authority, for browsers to trust
  hafen csr     [--out DIR]               a key (0600) and a certificate request with all own names, for the company's CA
  hafen support-bundle [--out FILE]       what a supporter needs, nothing secret
  hafen passwd                            reads a password on standard input, prints its hash for admin.users
  hafen version

Exit codes: 0 fine, 1 the thing asked for failed, 2 usage. --config - reads standard input.
`

type command func(ctx context.Context, w world, args []string) error

// commands are the subcommands by name.
func commands() map[string]command {
	return map[string]command{
		"serve": serve, "demo": demo, "cloud": standIn, "check": check, "config": showConfig, "doctor": doctor, "status": status, "reload": reloadRunning, "drain": drain,
		"drill": drill, "audit": auditLog, "csr": csr, "explain": explain, "support-bundle": supportBundle, "pac": pac, "firewall": firewall, "ca": root, "passwd": passwd,
		"version": showVersion,
	}
}

// run finds the subcommand, runs it and says its error in one sentence.
func run(ctx context.Context, w world) int {
	if len(w.args) == 0 || w.args[0] == "help" || w.args[0] == "--help" || w.args[0] == "-h" {
		fmt.Fprint(w.stdout, usage)
		if len(w.args) == 0 {
			return exitUsage
		}
		return exitOK
	}
	cmd, ok := commands()[w.args[0]]
	if !ok {
		fmt.Fprintf(w.stderr, "hafen: there is no command %q; see hafen help\n", w.args[0])
		return exitUsage
	}
	var code exitCode
	switch err := cmd(ctx, w, w.args[1:]); {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errSilent):
		return exitFailed
	case errors.Is(err, errUsage):
		fmt.Fprintln(w.stderr, "hafen:", strings.TrimSuffix(err.Error(), ": usage"))
		return exitUsage
	default:
		fmt.Fprintln(w.stderr, "hafen:", err)
		return exitFailed
	}
}

// errSilent fails without a further word: everything was said already.
var errSilent = errors.New("failed")

// flags makes the flag set of a subcommand; parse errors become usage errors.
func flags(w world, name string) *flag.FlagSet {
	fs := flag.NewFlagSet("hafen "+name, flag.ContinueOnError)
	fs.SetOutput(w.stdout)
	return fs
}

// parse parses the arguments of a subcommand that takes no more than max words besides its flags.
func parse(fs *flag.FlagSet, args []string, maxWords int) error {
	out := fs.Output()
	fs.SetOutput(io.Discard)
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(out)
		fs.Usage()
		return err
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", fs.Name(), err, errUsage)
	}
	if fs.NArg() > maxWords {
		return fmt.Errorf("%s: what is %q for? see hafen help: %w", fs.Name(), fs.Arg(maxWords), errUsage)
	}
	return nil
}

func showVersion(_ context.Context, w world, args []string) error {
	if err := parse(flags(w, "version"), args, 0); err != nil {
		return err
	}
	fmt.Fprintln(w.stdout, "hafen", version)
	return nil
}
