# ---- where we are ---------------------------------------------------------------------------------------------------

dump() { # bytes as hexadecimal words
    if command -v od >/dev/null 2>&1; then od -An -v -tx1; else hexdump -v -e '1/1 "%02x "'; fi
}

bytes_of() { # bytes_of FILE BLOCK COUNT: blocks of 16 bytes
    dd if="$1" bs=16 skip="$2" count="$3" 2>/dev/null | dump
}

whereabouts() { # leaves in $signature (hexadecimal, "": none) and $service_vm what the processor says; false: why not
    signature='' service_vm=''
    if ! grep -q '^flags.* hypervisor' "$cpuinfo" 2>/dev/null; then return 0; fi
    if [ -e "$hsm" ]; then service_vm=yes; fi
    if [ ! -r "$cpuid" ]; then modprobe cpuid >/dev/null 2>&1; fi
    set -- $(bytes_of "$cpuid" 0 2) # leaves 0 and 1
    if [ $# -eq 32 ]; then
        if [ $((0x${28} & 128)) = 0 ]; then return 0; fi
        set -- $(bytes_of "$cpuid" 67108864 2) # leaves 0x40000000 and 0x40000001
    fi
    if [ $# -eq 32 ]; then
        if [ $((0x${17} & 1)) = 1 ]; then privileged=yes; else privileged=; fi
        shift 4
        signature=$1$2$3$4$5$6$7$8$9${10}${11}${12}
        while :; do
            case $signature in *00) signature=${signature%00} ;; *) break ;; esac
        done
        if [ "$signature$privileged" = 4143524e4143524e4143524eyes ]; then service_vm=yes; fi
        return 0
    fi
    # Without ACRN's bit a Service VM looks like its guests. A kernel that has found KVM has not found ACRN.
    case $(dmesg 2>/dev/null | grep -o 'Hypervisor detected: [A-Za-z]*' 2>/dev/null) in
    *KVM) signature=4b564d4b564d4b564d ;;
    *) [ -n "$service_vm" ] ;;
    esac
}

name_hypervisor() { # the signature as text, in $word
    octal='' left=$signature
    while [ -n "$left" ]; do
        tail=${left#??}
        to_octal $((0x${left%"$tail"}))
        octal=$octal$digits left=$tail
    done
    token "$(printf "$octal")"
}

to_octal() { # to_octal NUMBER: as printf wants a byte, in $digits
    digits="\\$(($1 / 64))$(($1 / 8 % 8))$(($1 % 8))"
}

open_port() { # says why not
    user=$(id -u)
    if [ "$user" != 0 ]; then
        answer="no root the agent runs as user $user, and only root may touch a port"
    elif [ ! -e "$port" ]; then
        answer="no dev-port there is no $port in this guest, and a shell has no other way to a port"
    elif ! (exec 3<>"$port") 2>/dev/null; then
        state=$(cat "$lockdown" 2>/dev/null)
        case $state in
        '' | *'[none]'*) answer="no ports $port cannot be opened" ;;
        *) answer='no lockdown the kernel is locked down and lets nobody touch a port (see lockdown= and Secure Boot)' ;;
        esac
    else
        return 0
    fi
    return 1
}

do_hello() {
    proved='' steps='' count=0
    if ! whereabouts; then
        answer="no cpuid the processor cannot be asked where we are: no $cpuid (modprobe cpuid)"
    elif [ -n "$service_vm" ]; then
        answer="no service-vm this is ACRN's Service VM: its RTC is the machine's own"
    elif [ -z "$signature" ]; then
        answer="no hypervisor this machine's processor tells of none: this is no guest"
    else
        case ,${1-}, in
        *",$signature,"*)
            if open_port && hold_others; then
                proved=yes
                measure_grain
                do_info
            fi
            ;;
        *) name_hypervisor && answer="no hypervisor this machine's is $word" ;;
        esac
    fi
}

do_info() {
    name_hypervisor
    read -r load _ </proc/loadavg
    answer="ok agent=$version variant=shell grain_ns=$grain hypervisor=$word kernel=$(uname -r) clock=$clock load=$load"
    answer="$answer rtc_device=${devices##*/} shutdown_hwclock=$hwclock time_daemons="
    comma=''
    for entry in $stopped; do # PID:NAME:UNIT
        answer=$answer$comma${entry#*:} comma=,
    done
}
