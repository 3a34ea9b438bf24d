package main

import (
	"context"
	"regexp"
	"strings"
)

// usageCommand is a subcommand as the program's own help tells it.
type usageCommand struct {
	name, words, about string
	flags              []usageFlag
}

// usageFlag is one flag; value is what it takes, or nothing.
type usageFlag struct {
	name, value, about string
}

var (
	commandLine = regexp.MustCompile(`^  hafen ([a-z-]+)(?: +(\S.*))?$`)
	twoSpaces   = regexp.MustCompile(` {2,}`)
	flagLine    = regexp.MustCompile(`^  -([a-z0-9-]+)(?: (.+))?$`)
	// takesWords is how the words behind a command begin; else its description begins there.
	takesWords = regexp.MustCompile(`^(\[|[A-Z]{2,}|default\||(?:[a-z]+ )?[A-Z]+/)`)
)

// usage asks the program what its commands are, and each of them what its flags are.
func (r *release) usage(ctx context.Context) (title string, commands []usageCommand, err error) {
	text, err := command(ctx, r.path("stage", "hafen"), "help")
	if err != nil {
		return "", nil, err
	}
	title, commands = parseUsage(text)
	for i := range commands {
		c := &commands[i]
		text, err := command(ctx, r.path("stage", "hafen"), c.name, "--help")
		if err != nil {
			return "", nil, err
		}
		c.flags = parseFlags(text)
	}
	return title, commands, nil
}

// parseUsage reads the lines "  hafen COMMAND [WORDS]  what it does"; a line that begins further in goes on with the one before.
func parseUsage(text string) (title string, commands []usageCommand) {
	lines := strings.Split(text, "\n")
	_, title, _ = strings.Cut(lines[0], ": ")
	for _, line := range lines[1:] {
		m := commandLine.FindStringSubmatch(line)
		switch {
		case m != nil:
			c := usageCommand{name: m[1]}
			parts := twoSpaces.Split(m[2], -1)
			if takesWords.MatchString(parts[0]) {
				c.words, parts = parts[0], parts[1:]
			}
			if c.about = strings.TrimSpace(strings.Join(parts, " ")); c.about == "" {
				c.about = "print the " + c.name // as "hafen version" does, which says no more
			}
			commands = append(commands, c)
		case strings.HasPrefix(line, "   ") && len(commands) > 0:
			last := &commands[len(commands)-1]
			last.about += " " + strings.TrimSpace(line)
		}
	}
	return title, commands
}

// parseFlags reads what package flag prints of itself.
func parseFlags(text string) (flags []usageFlag) {
	for _, line := range strings.Split(text, "\n") {
		if m := flagLine.FindStringSubmatch(line); m != nil {
			flags = append(flags, usageFlag{name: m[1], value: m[2]})
		} else if len(flags) > 0 && strings.TrimSpace(line) != "" {
			last := &flags[len(flags)-1]
			last.about = strings.TrimSpace(last.about + " " + strings.TrimSpace(line))
		}
	}
	return flags
}
