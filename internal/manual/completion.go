package manual

import (
	"fmt"
	"slices"
	"strings"
)

// Shells are those that Completion knows.
var Shells = []string{"bash", "fish", "zsh"}

// Completion returns a script by which a shell completes the command line of a program: its
// commands, their words, and their options. Arguments are completed as names of files.
// A shell that is not known is an empty text.
func Completion(shell, program string, pages []Page) string {
	switch shell {
	case "bash":
		return bash(program, pages)
	case "zsh":
		return zsh(program, pages)
	case "fish":
		return fish(program, pages)
	}
	return ""
}

// command returns the last word of a page's name.
func (p Page) command() string { return p.Name[strings.LastIndexByte(p.Name, ' ')+1:] }

// typed returns the options of a page as they are typed, sorted.
func (p Page) typed() (typed []string) {
	for _, o := range Options(p.Help) {
		if o.Short != "" {
			typed = append(typed, "-"+o.Short)
		}
		if o.Long != "" && o.Argument != "" {
			typed = append(typed, "--"+o.Long+"=")
		} else if o.Long != "" {
			typed = append(typed, "--"+o.Long)
		}
	}
	slices.Sort(typed)
	return slices.Compact(typed)
}

func bash(program string, pages []Page) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Completion of %s for bash: source it, or keep it as /usr/share/bash-completion/completions/%s.\n", program, program)
	fmt.Fprintf(&b, "_%s() {\n\tlocal words='' options='' word=${COMP_WORDS[COMP_CWORD]}\n\tCOMPREPLY=()\n", program)
	b.WriteString("\tif ((COMP_CWORD == 1)); then\n\t\twords='")
	for i, p := range pages {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(p.command())
	}
	b.WriteString("'\n\tfi\n\tcase ${COMP_WORDS[1]} in\n")
	for _, p := range pages {
		fmt.Fprintf(&b, "\t%s)\n", p.command())
		if words := p.words(); len(words) > 0 {
			fmt.Fprintf(&b, "\t\tif ((COMP_CWORD == 2)); then words='%s'; fi\n", strings.Join(words, " "))
		}
		fmt.Fprintf(&b, "\t\toptions='%s'\n\t\t;;\n", strings.Join(p.typed(), " "))
	}
	fmt.Fprintf(&b, `	esac
	if [[ $word == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
		if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
		return
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -o default -F _%[1]s %[1]s
`, program)
	return b.String()
}

func zsh(program string, pages []Page) string {
	var b strings.Builder
	fmt.Fprintf(&b, "#compdef %s\n# Completion of %s for zsh: keep it as _%s in a folder of $fpath.\n", program, program, program)
	b.WriteString("local -a commands\nif ((CURRENT == 2)); then\n\tcommands=(\n")
	for _, p := range pages {
		fmt.Fprintf(&b, "\t\t%s\n", single(p.command()+":"+strings.ReplaceAll(p.Summary, ":", `\:`)))
	}
	b.WriteString("\t)\n\t_describe command commands\n\treturn\nfi\ncase $words[2] in\n")
	for _, p := range pages {
		fmt.Fprintf(&b, "%s)\n\t(( CURRENT-- )); shift words\n\t_arguments -s", p.command())
		for _, o := range Options(p.Help) {
			for _, typed := range o.forZsh() {
				b.WriteString(" \\\n\t\t" + single(typed))
			}
		}
		if words := p.words(); len(words) > 0 {
			b.WriteString(" \\\n\t\t" + single("1:command:("+strings.Join(words, " ")+")"))
		}
		b.WriteString(" \\\n\t\t'*:file:_files'\n\t;;\n")
	}
	b.WriteString("esac\n")
	return b.String()
}

// forZsh returns an option as _arguments takes it.
func (o Option) forZsh() (specs []string) {
	text := strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`).Replace(brief(o.Text))
	argument := ""
	if o.Argument != "" {
		argument = ":" + strings.ReplaceAll(o.Argument, ":", `\:`) + ":_files"
	}
	if o.Short != "" {
		specs = append(specs, "-"+o.Short+"["+text+"]"+argument)
	}
	if o.Long != "" && o.Argument != "" {
		specs = append(specs, "--"+o.Long+"=["+text+"]"+argument)
	} else if o.Long != "" {
		specs = append(specs, "--"+o.Long+"["+text+"]")
	}
	return specs
}

func fish(program string, pages []Page) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Completion of %s for fish: keep it as ~/.config/fish/completions/%s.fish.\n", program, program)
	for _, p := range pages {
		fmt.Fprintf(&b, "complete -c %s -n __fish_use_subcommand -f -a %s -d %s\n", program, p.command(), single(p.Summary))
		of := single("__fish_seen_subcommand_from " + p.command())
		for _, w := range p.words() {
			fmt.Fprintf(&b, "complete -c %s -n %s -f -a %s\n", program, of, w)
		}
		for _, o := range Options(p.Help) {
			fmt.Fprintf(&b, "complete -c %s -n %s", program, of)
			if o.Short != "" {
				b.WriteString(" -s " + single(o.Short))
			}
			if o.Long != "" {
				b.WriteString(" -l " + o.Long)
			}
			if o.Argument != "" {
				b.WriteString(" -r")
			}
			fmt.Fprintf(&b, " -d %s\n", single(brief(o.Text)))
		}
	}
	return b.String()
}

// brief returns what a text says first.
func brief(text string) string {
	for _, end := range []string{"; ", " (", ", "} {
		if i := strings.Index(text, end); i > 0 && len(text) > 60 {
			text = text[:i]
		}
	}
	return text
}

// single returns a word in single quotes, for zsh and fish.
func single(s string) string { return "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'" }
