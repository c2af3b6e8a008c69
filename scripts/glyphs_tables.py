"""What `make_glyphs.py` draws, and from which packages."""


def _range(first: int, last: int) -> str:
    return "".join(map(chr, range(first, last + 1)))


_SYLLABLES = "".join(
    chr(0xAC00 + (initial * 21 + vowel) * 28 + final)
    for vowel, final in ((0, 0), (8, 0), (20, 8))  # a, o, il
    for initial in (0, 2, 3, 5, 6, 7, 9, 11, 12, 14, 15, 16, 17, 18)
)

# script ↦ split and characters; Han: what Japanese schools teach in the first year and some of the second's
SCRIPTS = {
    "Latin": ("train", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789ÆæßðþŒœ&"),
    "Greek": ("train", "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩαβγδεζηθικλμνξοπρσςτυφχψω"),
    "Cyrillic": (
        "train",
        "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюяЄєЂђЉљЊњЋћЏџҐґ",
    ),
    "Hiragana": (
        "train",
        "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわゐゑをん",
    ),
    "Katakana": (
        "train",
        "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワヰヱヲン",
    ),
    "Han": (
        "train",
        "一右雨円王音下火花貝学気九休玉金空月犬見五口校左三山子四糸字耳七車手十出女小上森人水正生青夕石赤千川先早草足村大男竹中虫町天田土"
        "二日入年白八百文木本名目立力林六引羽雲園遠何科夏家歌画回会海絵外角楽活間丸岩顔汽記帰弓牛魚京強教近兄形計元言原戸古午後語工公広交光考行高黄合谷国黒今才細作算止市矢姉思紙寺自時室社弱首秋週春書少場色食心新親図数西声星晴切雪船線前組走多太体台地池知茶昼長鳥朝直通弟店点電刀",
    ),
    "Hangul": ("train", _SYLLABLES),
    "Thai": ("validation", _range(0x0E01, 0x0E2E) + "ะาเโใไๆฯ" + _range(0x0E50, 0x0E59)),
    "Hebrew": ("validation", _range(0x05D0, 0x05EA)),
    "Devanagari": ("test", _range(0x0905, 0x0914) + _range(0x0915, 0x0939) + "ॐ" + _range(0x0966, 0x096F)),
    "Arabic": ("test", _range(0x0621, 0x063A) + _range(0x0641, 0x064A) + "پچژڤکگ" + _range(0x0661, 0x0669)),
    "Telugu": ("test", _range(0x0C05, 0x0C14) + _range(0x0C15, 0x0C39) + _range(0x0C66, 0x0C6F)),
}
# one class whatever the measure says: the same letter shape across scripts, or in both cases
_SHAPES = (
    "AΑА BΒВв CcСс EΕЕ HΗНн IΙІ KΚКκк MΜМм NΝ OoОоΟο PpΡРρр SsЅѕ TΤТт Vvν Ww XxΧХχх YΥ yуУ Zz aа eе iі jј ГΓг "
    "Фф ПΠп Дд Жж 3Зз Ии Йй Лл Цц Чч Шш Щщ Ъъ Ыы Ьь Ээ Юю Яя Єє Ґґ Љљ Њњ Џџ へヘ りリ ロ口 ニ二 ハ八 カ力 タ夕 エ工"
)
HOMOGLYPHS = _SHAPES.split()

# packages by what they were drawn for; after a colon, which files of a Debian package
PACKAGES = {
    "European": """
        @fontsource/arimo @fontsource/eb-garamond @fontsource/noto-sans @fontsource/comfortaa @fontsource/noto-serif
        @fontsource/jura @fontsource/roboto-slab @fontsource/didact-gothic @fontsource/alegreya @fontsource/fira-mono
        @fontsource/caveat @fontsource/gfs-didot @fontsource/ibm-plex-sans @fontsource/lobster @fontsource/tinos
        @fontsource/press-start-2p @fontsource/play @fontsource/vollkorn @fontsource/victor-mono @fontsource/geologica
        @fontsource/cousine @fontsource/cardo @fontsource/pacifico @fontsource/source-sans-3 @fontsource/literata
        @fontsource/manrope @fontsource/marck-script @fontsource/stix-two-text @fontsource/inter @fontsource/bad-script
        @fontsource/jetbrains-mono @fontsource/gentium-plus @fontsource/commissioner @fontsource/neucha
        @fontsource/source-serif-4 @fontsource/alegreya-sans @fontsource/yeseva-one @fontsource/sofia-sans
        @fontsource/carlito @fontsource/russo-one @fontsource/open-sans @fontsource/roboto @fontsource/balsamiq-sans
        @fontsource/fira-sans @fontsource/google-sans @fontsource/ibm-plex-mono @fontsource/ibm-plex-serif
        @fontsource/prata @fontsource/philosopher @fontsource/playfair-display @fontsource/oswald @fontsource/unbounded
        @fontsource/lora @fontsource/merriweather @fontsource/old-standard-tt @fontsource/pt-serif @fontsource/rubik
        @fontsource/raleway @fontsource/montserrat @fontsource/exo-2 @fontsource/roboto-serif @fontsource/comic-neue
        @fontsource/vt323 @fontsource/courier-prime @fontsource/patrick-hand @fontsource/rokkitt
        @fontsource/inconsolata @fontsource/zilla-slab @fontsource/caladea @fontsource/medievalsharp @fontsource/firago
        fonts-gfs-neohellenic:GFSNeohellenic fonts-gfs-artemisia:GFSArtemisia
    """,
    "Japanese": """
        @fontsource/biz-udgothic @fontsource/shippori-mincho @fontsource/yomogi @fontsource/kaisei-opti
        @fontsource/m-plus-rounded-1c @fontsource/dela-gothic-one @fontsource/zen-old-mincho @fontsource/dotgothic16
        @fontsource/kiwi-maru @fontsource/noto-serif-jp @fontsource/yusei-magic @fontsource/zen-kaku-gothic-new
        @fontsource/mochiy-pop-one @fontsource/ibm-plex-sans-jp @fontsource/zen-kurenaido @fontsource/line-seed-jp
        @fontsource/m-plus-1 @fontsource/zen-maru-gothic @fontsource/noto-sans-jp @fontsource/kosugi-maru
        @fontsource/sawarabi-gothic @fontsource/m-plus-1p fonts-klee:KleeOne-Regular fonts-reggae:ReggaeOne-Regular
        fonts-rocknroll:RocknRollOne-Regular fonts-train:TrainOne-Regular fonts-stick:Stick-Regular
        fonts-morisawa-bizud-mincho:BIZUDMincho-Regular fonts-lxgw-wenkai:LXGWWenKai-Regular
    """,
    "Korean": """
        @fontsource/nanum-gothic @fontsource/gowun-batang @fontsource/gaegu @fontsource/black-han-sans
        @fontsource/gothic-a1 @fontsource/nanum-myeongjo @fontsource/nanum-pen-script @fontsource/gugi
        @fontsource/noto-serif-kr @fontsource/poor-story @fontsource/sunflower @fontsource/nanum-brush-script
        @fontsource/ibm-plex-sans-kr @fontsource/noto-sans-kr @fontsource/nanum-gothic-coding
        fonts-woowa-bm:BMDOHYEON_ttf,BMEULJIROTTF,BMHANNAAir_ttf,BMHANNA_11yrs_ttf,BMJUA_ttf,BMKIRANGHAERANG-TTF
        fonts-woowa-bm:BMYEONSUNG_ttf,BMEuljiro10yearslater fonts-naver-d2coding:D2Coding-Ver1.3.2-20180524-all
        fonts-nanum:NanumSquareR,NanumSquareRoundR,NanumBarunGothic fonts-nanum-extra:NanumBarunpenR
    """,
    "Thai": """
        @fontsource/sarabun @fontsource/kanit @fontsource/taviraj @fontsource/itim @fontsource/ibm-plex-sans-thai
        @fontsource/chakra-petch @fontsource/noto-serif-thai @fontsource/sriracha @fontsource/mitr @fontsource/pridi
        @fontsource/bai-jamjuree @fontsource/trirong @fontsource/mali @fontsource/noto-sans-thai @fontsource/fahkwang
        @fontsource/prompt @fontsource/maitree @fontsource/k2d @fontsource/anuphan
        fonts-noto-core:NotoLoopedThai-Regular
    """,
    "Hebrew": """
        @fontsource/frank-ruhl-libre @fontsource/heebo @fontsource/suez-one @fontsource/assistant @fontsource/fredoka
        @fontsource/noto-sans-hebrew @fontsource/varela-round @fontsource/amatic-sc @fontsource-variable/miriam-libre
        @fontsource-variable/handjet @fontsource-variable/noto-serif-hebrew fonts-sil-ezra:SILEOT
        fonts-noto-core:NotoRashiHebrew-Regular
        fonts-ldco:Amit,Daniel,ECO,HarSinai,Josef,Kimchi,Miso,Noam,Sayphan
    """,
    "Devanagari": """
        @fontsource/noto-sans-devanagari @fontsource/kalam @fontsource/martel @fontsource/poppins @fontsource/modak
        @fontsource/hind @fontsource/inknut-antiqua @fontsource/khand @fontsource/baloo-2 @fontsource/halant
        @fontsource/rajdhani @fontsource/karma @fontsource/mukta @fontsource/yatra-one @fontsource/teko
        @fontsource/eczar @fontsource/yantramanav @fontsource/laila @fontsource/palanquin
        fonts-noto-core:NotoSerifDevanagari-Regular fonts-lohit-deva:Lohit-Devanagari
        fonts-sil-annapurna:AnnapurnaSIL-Regular fonts-aksharyogini2:Aksharyogini2Normal
    """,
    "Arabic": """
        @fontsource/amiri @fontsource/cairo @fontsource/lalezar @fontsource/noto-naskh-arabic @fontsource/reem-kufi
        @fontsource/tajawal @fontsource/aref-ruqaa @fontsource/baloo-bhaijaan-2 @fontsource/noto-nastaliq-urdu
        @fontsource/almarai @fontsource/lateef @fontsource/changa @fontsource/ibm-plex-sans-arabic @fontsource/lemonada
        @fontsource/scheherazade-new @fontsource/el-messiri @fontsource/vazirmatn @fontsource/noto-kufi-arabic
        @fontsource/zain @fontsource/readex-pro @fontsource/noto-sans-arabic @fontsource/alexandria
        @fontsource-variable/fustat fonts-hosny-thabit:Thabit fonts-sil-harmattan:Harmattan-Regular
        fonts-sil-alkalami:Alkalami-Regular
    """,
    "Telugu": """
        @fontsource-variable/noto-sans-telugu @fontsource/hind-guntur fonts-lohit-telu:Lohit-Telugu
        fonts-noto-core:NotoSerifTelugu-Regular
        fonts-teluguvijayam:Ramaraja-Regular,NATS,SyamalaRamana,LakkiReddy,Gurajada,Peddana-Regular,Gidugu
        fonts-teluguvijayam:Mandali-Regular,PottiSreeramulu,TimmanaRegular,mallanna,dhurjati,Ponnala,ramabhadra
        fonts-teluguvijayam:RaviPrakash,NTR,Suravaram,suranna,TenaliRamakrishna-Regular,SreeKrushnadevaraya
    """,
}
# which of them draw a script; others may have it, but borrowed or without care
DRAWN_BY = {
    "Latin": "European",
    "Greek": "European",
    "Cyrillic": "European",
    "Hiragana": "Japanese",
    "Katakana": "Japanese",
    "Han": "Japanese",
    "Hangul": "Korean",
    "Thai": "European Thai",
    "Hebrew": "European Japanese Hebrew",
    "Devanagari": "European Devanagari",
    "Arabic": "European Arabic",
    "Telugu": "European Telugu",
}
