package main

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// completions writes a completion for each of three shells from the program's help.
func (r *release) completions(ctx context.Context) error {
	_, commands, err := r.usage(ctx)
	if err != nil {
		return err
	}
	for name, write := range map[string]func([]usageCommand) []byte{"hafen.bash": bash, "_hafen": zsh, "hafen.fish": fish} {
		if err := r.stage("completion/"+name, write(commands)); err != nil {
			return err
		}
	}
	return nil
}

// takesFile and takesFolder tell what a flag's value is.
func (f usageFlag) takesFile() bool   { return strings.HasPrefix(f.value, "file") }
func (f usageFlag) takesFolder() bool { return f.value == "directory" }

var choice = regexp.MustCompile(`^[a-z]+(\|[a-z]+)+$`)

// choices are the words of which a command takes one, as in default|schema|show.
func (c usageCommand) choices() []string {
	if choice.MatchString(c.words) {
		return strings.Split(c.words, "|")
	}
	return nil
}

func (c usageCommand) flagWords() []string {
	var words []string
	for _, f := range c.flags {
		words = append(words, "--"+f.name)
	}
	return words
}

func bash(commands []usageCommand) []byte {
	var b bytes.Buffer
	var names, files, folders []string
	for _, c := range commands {
		names = append(names, c.name)
		for _, f := range c.flags {
			switch {
			case f.takesFile():
				files = append(files, "--"+f.name)
			case f.takesFolder():
				folders = append(folders, "--"+f.name)
			}
		}
	}
	fmt.Fprintf(&b, `# bash completion for hafen
_hafen() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W "%s" -- "$cur")
		return
	fi
	case $prev in
	none%s) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
	none%s) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	esac
	case ${COMP_WORDS[1]} in
`, strings.Join(names, " "), alternatives(folders), alternatives(files))
	for _, c := range commands {
		if words := append(c.choices(), c.flagWords()...); len(words) > 0 {
			fmt.Fprintf(&b, "\t%s) mapfile -t COMPREPLY < <(compgen -W \"%s\" -- \"$cur\") ;;\n", c.name, strings.Join(words, " "))
		}
	}
	b.WriteString("\tesac\n}\ncomplete -o filenames -F _hafen hafen\n")
	return b.Bytes()
}

// alternatives go on a pattern of case with the members of a list, each once.
func alternatives(words []string) (pattern string) {
	slices.Sort(words)
	for _, w := range slices.Compact(words) {
		pattern += "|" + w
	}
	return pattern
}

func zsh(commands []usageCommand) []byte {
	var b bytes.Buffer
	b.WriteString("#compdef hafen\n_hafen() {\n\tlocal -a commands\n\tcommands=(\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "\t\t%s\n", quoted(c.name+":"+c.about))
	}
	b.WriteString("\t)\n\tif (( CURRENT == 2 )); then\n\t\t_describe 'command' commands\n\t\treturn\n\tfi\n\tcase $words[2] in\n")
	for _, c := range commands {
		var args []string
		for _, f := range c.flags {
			about := strings.NewReplacer("[", "(", "]", ")", ":", ",").Replace(f.about)
			switch {
			case f.value == "":
				args = append(args, quoted("--"+f.name+"["+about+"]"))
			case f.takesFile():
				args = append(args, quoted("--"+f.name+"["+about+"]:file:_files"))
			case f.takesFolder():
				args = append(args, quoted("--"+f.name+"["+about+"]:directory:_files -/"))
			default:
				args = append(args, quoted("--"+f.name+"["+about+"]:"+f.value+":"))
			}
		}
		if words := c.choices(); words != nil {
			args = append(args, quoted("2:what:("+strings.Join(words, " ")+")"))
		}
		if len(args) > 0 {
			fmt.Fprintf(&b, "\t%s) _arguments %s ;;\n", c.name, strings.Join(args, " "))
		}
	}
	b.WriteString("\tesac\n}\n_hafen \"$@\"\n")
	return b.Bytes()
}

// quoted is a word for zsh and fish, which both end a quoted word at the next '.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func fish(commands []usageCommand) []byte {
	var b bytes.Buffer
	b.WriteString("# fish completion for hafen\ncomplete -c hafen -f\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "complete -c hafen -n __fish_use_subcommand -a %s -d %s\n", c.name, quoted(c.about))
		for _, f := range c.flags {
			takes := ""
			switch {
			case f.takesFile(), f.takesFolder():
				takes = " -r -F"
			case f.value != "":
				takes = " -x"
			}
			fmt.Fprintf(&b, "complete -c hafen -n '__fish_seen_subcommand_from %s' -l %s%s -d %s\n", c.name, f.name, takes, quoted(f.about))
		}
		for _, w := range c.choices() {
			fmt.Fprintf(&b, "complete -c hafen -n '__fish_seen_subcommand_from %s' -a %s\n", c.name, w)
		}
	}
	return b.Bytes()
}
