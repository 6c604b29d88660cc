package conninfo

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// addService sets what the service that p or the environment names has to
// say, where p says nothing itself.
//
// Source: parseServiceInfo in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (p *Params) addService(s System) error {
	service, ok := p.Lookup("service")
	if !ok {
		if service = s.getenv("PGSERVICE"); service == "" {
			return nil
		}
	}
	for _, file := range serviceFiles(s) {
		settings, found, err := readServiceFile(file, service)
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		for k, v := range settings.All() {
			if _, ok := p.Lookup(k); !ok {
				p.set(k, v)
			}
		}
		return nil
	}
	return fmt.Errorf("definition of service \"%s\" not found", service)
}

// serviceFiles returns the service files to look at, in order. Only the one
// that PGSERVICEFILE names need not exist: opening it is to be an error then.
func serviceFiles(s System) []string {
	var files []string
	if named := s.getenv("PGSERVICEFILE"); named != "" {
		files = append(files, named)
	} else if file := s.inHome(".pg_service.conf"); exists(file) {
		files = append(files, file)
	}
	dir := s.getenv("PGSYSCONFDIR")
	if dir == "" {
		dir = s.ConfigDir
	}
	if file := filepath.Join(dir, "pg_service.conf"); dir != "" && exists(file) {
		files = append(files, file)
	}
	return files
}

func exists(file string) bool {
	if file == "" {
		return false
	}
	_, err := os.Stat(file)
	return err == nil
}

func readServiceFile(file, service string) (settings Params, found bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return Params{}, false, fmt.Errorf("service file \"%s\" not found", file)
	}
	defer f.Close()
	return parseServiceFile(f, file, service)
}

// parseServiceFile returns the settings of one service; file names r in
// errors. Of a keyword that is given twice the first one counts. Lines of
// other services are not looked at.
//
// Source: parseServiceFile in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func parseServiceFile(r io.Reader, file, service string) (settings Params, found bool, err error) {
	lines := bufio.NewScanner(r)
	for number := 1; lines.Scan(); number++ {
		line := strings.Trim(lines.Text(), spaces)
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == '[' {
			if found {
				return settings, true, nil
			}
			found = strings.HasPrefix(line[1:], service+"]")
			continue
		}
		if !found {
			continue
		}
		keyword, value, ok := strings.Cut(line, "=")
		if ok && keyword == "service" {
			return Params{}, false, fmt.Errorf("nested service specifications not supported in service file \"%s\", line %d", file, number)
		}
		if !ok || !known(keyword) {
			return Params{}, false, fmt.Errorf("syntax error in service file \"%s\", line %d", file, number)
		}
		if _, again := settings.Lookup(keyword); !again {
			settings.set(keyword, value)
		}
	}
	if err := lines.Err(); err != nil {
		return Params{}, false, fmt.Errorf("service file \"%s\": %w", file, err)
	}
	return settings, found, nil
}
